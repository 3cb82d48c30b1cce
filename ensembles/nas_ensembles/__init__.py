"""What runs around the engine inside Triton: decoding, letterbox, NMS, and the tensor contract they share.

Only numpy and OpenCV: what the models import is copied into every model repository, beside them.
"""

# Modules that models import.
IN_MODELS = ("__init__", "contract", "cores", "images", "letterbox", "memory", "nms", "opencv", "pipeline")
