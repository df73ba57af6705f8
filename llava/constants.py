"""Names and numbers shared by everything that reads or writes LLaVA prompts; they are part of the checkpoint format."""

# Labels with this value carry no loss (torch.nn.CrossEntropyLoss ignores it by default).
IGNORE_INDEX = -100

# Stands for one image in a row of token ids until its features are spliced in; never a row of an embedding table.
IMAGE_TOKEN_INDEX = -200

DEFAULT_IMAGE_TOKEN = "<image>"
DEFAULT_IMAGE_PATCH_TOKEN = "<im_patch>"
DEFAULT_IM_START_TOKEN = "<im_start>"
DEFAULT_IM_END_TOKEN = "<im_end>"

# Where a query of `eval_model` wants its image; replaced by DEFAULT_IMAGE_TOKEN before tokenising.
IMAGE_PLACEHOLDER = "<image-placeholder>"

# Read by clients of the public package; nothing in this project starts a worker or writes logs there.
CONTROLLER_HEART_BEAT_EXPIRATION = 30
WORKER_HEART_BEAT_INTERVAL = 15
LOGDIR = "."
