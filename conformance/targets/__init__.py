"""What is under test: one file per framework, each importing its framework only when a target is made.

``base``  what a target is                      ``torch_targets``       PyTorch, four ways
``reasons``  when a refusal is `Unsupported`    ``tensorflow_target``   TensorFlow
``onnx_graph``  a case as an ONNX model         ``keras_targets``       Keras layers and ops, any backend
``onnxruntime_target``  ONNX Runtime            ``onnx_reference``      ONNX's reference evaluator
"""
