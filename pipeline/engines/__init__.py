"""The EngineCompiler port and its backends."""
