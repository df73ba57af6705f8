"""The training program under FlashAttention-2, for scripts that call it by its LLaVA name."""

from llava.train.train import main

if __name__ == "__main__":
    main(attn_implementation="flash_attention_2")
