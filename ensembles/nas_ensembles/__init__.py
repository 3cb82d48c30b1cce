"""What runs around the engine inside Triton: decoding, letterbox, NMS, and the tensor contract they share.

Only numpy and OpenCV: this package is copied into every model repository, beside the models that use it.
"""
