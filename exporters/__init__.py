"""Exporters turn a case into an ONNX file the way a framework's users would."""
