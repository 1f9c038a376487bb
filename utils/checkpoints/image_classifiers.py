"""What checkpoints of classification networks name beside YOLOv5's layers: torchvision's, and a clone's transforms."""

from __future__ import annotations

_MODELS = {
    "alexnet": "AlexNet",
    "convnext": "CNBlock ConvNeXt LayerNorm2d",
    "densenet": "DenseNet _DenseBlock _DenseLayer _Transition",
    "efficientnet": "EfficientNet FusedMBConv MBConv",
    "googlenet": "BasicConv2d GoogLeNet Inception InceptionAux",
    "inception": "BasicConv2d Inception3 InceptionA InceptionAux InceptionB InceptionC InceptionD InceptionE",
    "maxvit": "MBConv MaxVit MaxVitBlock MaxVitLayer PartitionAttentionLayer RelativePositionalMultiHeadAttention "
    "SwapAxes WindowDepartition WindowPartition",
    "mnasnet": "MNASNet _InvertedResidual",
    "mobilenetv2": "InvertedResidual MobileNetV2",
    "mobilenetv3": "InvertedResidual MobileNetV3",
    "regnet": "AnyStage BottleneckTransform RegNet ResBottleneckBlock SimpleStemIN",
    "resnet": "BasicBlock Bottleneck ResNet",
    "shufflenetv2": "InvertedResidual ShuffleNetV2",
    "squeezenet": "Fire SqueezeNet",
    "swin_transformer": "PatchMerging PatchMergingV2 ShiftedWindowAttention ShiftedWindowAttentionV2 SwinTransformer "
    "SwinTransformerBlock SwinTransformerBlockV2",
    "vgg": "VGG",
    "vision_transformer": "Encoder EncoderBlock MLPBlock VisionTransformer",
}
_OPERATIONS = {
    "misc": "Conv2dNormActivation MLP Permute SqueezeExcitation",
    "stochastic_depth": "StochasticDepth",
}
LAYER_PATHS = tuple(
    f"torchvision.{place}.{module}.{name}"
    for place, modules in (("models", _MODELS), ("ops", _OPERATIONS))
    for module, names in modules.items()
    for name in names.split()
)
# Networks of clones carry the transforms of their images as an attribute. It is left out: classify/ builds its own.
_TRANSFORMS = ("Compose", "Normalize", "ToTensor", "Resize", "CenterCrop")
TRANSFORM_PATHS = (
    *(f"torchvision.transforms.transforms.{name}" for name in _TRANSFORMS),
    *(f"utils.augmentations.{name}" for name in ("CenterCrop", "ToTensor")),
)
CHOICE_PATH = "torchvision.transforms.functional.InterpolationMode"
# Attributes that building such a network alone needs; they hold classes and functions.
BUILDERS = frozenset({"_norm_layer", "norm_layer"})
