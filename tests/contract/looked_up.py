"""Which names of TensorRT the product uses, found in its source.

In the modules that speak to the library, each variable holds an object of one class. The table below says of which; every
attribute that is taken of such a variable, and every keyword it is called with, is a name that the library must have.
"""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODULE = "module"
HOLDS = {
    "pipeline/engines/backends/tensorrt_build.py": {
        **dict.fromkeys(("trt", "self._trt"), MODULE),
        "self._builder": "Builder",
        "network": "INetworkDefinition",
        "self._network": "INetworkDefinition",
        "self._parser": "OnnxParser",
        "config": "IBuilderConfig",
        "profile": "IOptimizationProfile",
        "cache": "ITimingCache",
        "registry": "IPluginRegistry",
        "error": "ParserError",
        "tensor": "ITensor",
        "_creation_flags:kinds": "NetworkDefinitionCreationFlag",
        "_logger:kinds": "ILogger",
    },
    "store/runtime/backends/tensorrt_engine.py": {
        **dict.fromkeys(("self.library", "library"), MODULE),
        "self.engine": "ICudaEngine",
        "self.runtime": "Runtime",
        "self.context": "IExecutionContext",
        "config": "IRuntimeConfig",
        "make_context:kinds": "DynamicShapesKernelSpecializationStrategy",
    },
}
OWN = frozenset({(MODULE, "__name__"), ("ParserError", "message"), ("ParserError", "hint")})
"""Attributes of variables that share their name with one that holds an object of the library."""


def names_used():
    """Return (class, attribute, keywords) for every use; the class "module" is the library itself."""
    found = set()
    for path, holds in HOLDS.items():
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        for function in [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]:
            found.update(_uses(function, holds))
    return sorted((kind, name, keywords) for kind, name, keywords in found if (kind, name) not in OWN)


def _uses(function, holds):
    keywords = {
        id(node.func): tuple(sorted(each.arg for each in node.keywords if each.arg))
        for node in ast.walk(function)
        if isinstance(node, ast.Call)
    }
    for node in ast.walk(function):
        match node:
            case ast.Call(func=ast.Name(id="getattr"), args=[asked, ast.Constant(value=str(name)), *_]):
                if kind := holds.get(ast.unparse(asked)):
                    yield kind, name, ()
        if not isinstance(node, ast.Attribute):
            continue
        base = ast.unparse(node.value)
        kind = holds.get(f"{function.name}:{base}", holds.get(base))
        if kind is not None:
            yield kind, node.attr, keywords.get(id(node), ())
            continue
        # A member of something in the module itself: trt.BuilderFlag.TF32, library.ILogger.Severity.ERROR.
        outer, _, last = base.rpartition(".")
        if holds.get(outer) == MODULE or last == "Severity":
            yield last, node.attr, keywords.get(id(node), ())
