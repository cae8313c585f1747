"""The text of a valid request, for tests to send as it is or changed."""

REQUEST = """\
flight_id = "demo-001"
sector = "stable_rear"
bbox = [-118.3198, 36.5611, -118.2607, 36.5930]
zoom = [13, 15]
origin = [-118.2923, 36.5785, 4421.0]
calibration = "camera.json"

[tiles]
source = "whitney.pmtiles"

[engine]
backend = "onnxruntime"
precision = "fp32"

[[models]]
name = "place"
role = "descriptor"
onnx = "builtin:place"

[index]
kind = "auto"
"""
