"""Export of trained networks to ONNX. The fusion runs after the network, see `panoptic_fusion.runtime`."""
