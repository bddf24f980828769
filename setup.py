"""The extension modules: ascendspeed._C, and ascendspeed._npu where torch_npu is installed. All else: pyproject.toml.

Sources are listed one by one, with the flags that a single file needs: an instruction set's flags must not reach any
other file, or the library would crash on machines without it.
"""

import json
import os
import platform
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from setuptools import Extension, setup

# Building needs torch_npu's headers and no card: do not load it, which fails where CANN is not on the loader's path.
os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"

try:
    from torch.utils.cpp_extension import BuildExtension, CppExtension
except ModuleNotFoundError as error:
    raise SystemExit(f"setup.py: the extension is built against torch, which is not installed here ({error})") from None

ROOT = Path(__file__).parent

# The sources that know no torch are listed with their flags where the build of csrc/hostcann reads them too.
SHARED = json.loads((ROOT / "csrc" / "sources.json").read_text())
SOURCES = [
    *SHARED["attention"],
    *SHARED["cpu"],
    "csrc/torch/autograd.cpp",
    "csrc/torch/calls.cpp",
    "csrc/torch/direct_call.cpp",
    "csrc/torch/flash_attention_cpu.cpp",
    "csrc/torch/library.cpp",
    "csrc/torch/library_npu.cpp",
    "csrc/torch/schema.cpp",
    "csrc/torch/tensor_info.cpp",
]
NPU_SOURCES = [
    "csrc/attention/layout.cpp",
    *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("csrc/npu/*.cpp")),
]
HEADERS = ["csrc/sources.json", *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("csrc/**/*.h"))]
ISA_FLAGS = SHARED["isa"].get(platform.machine(), {})

FLAGS = list(SHARED["flags"])
# Torch's headers are not ours to keep warning-free.
FLAGS += [flag for path in CppExtension("", []).include_dirs for flag in ("-isystem", path)]
if os.environ.get("ASCENDSPEED_WERROR") == "1":
    FLAGS.append("-Werror")


class Build(BuildExtension):
    """BuildExtension that adds ISA_FLAGS to the files that have them."""

    def build_extensions(self) -> None:
        compile_file = self.compiler._compile

        def compile_with_isa_flags(obj, src, ext, cc_args, extra_postargs, pp_opts):
            extra = ISA_FLAGS.get(os.path.relpath(src, ROOT).replace(os.sep, "/"), [])
            compile_file(obj, src, ext, cc_args, [*extra_postargs, *extra], pp_opts)

        self.compiler._compile = compile_with_isa_flags
        super().build_extensions()


def extension(name: str, sources: list[str], **options: list[str]) -> Extension:
    flags = [*FLAGS, *options.pop("extra_compile_args", [])]
    return CppExtension(name, sources, depends=HEADERS, include_dirs=["csrc"], extra_compile_args=flags, **options)


def npu_extension(torch_npu: Path) -> Extension:
    """ascendspeed._npu: the torch_npu in this folder, and CANN's operators by name when they are called.

    Headers: the wheel's; those of the aclnn operators, which it lacks, are ours (csrc/hostcann/include, after the
    wheel's, which has the others too).
    """
    include = torch_npu / "include"
    folders = [include, include / "third_party" / "acl" / "inc", include / "third_party" / "hccl" / "inc"]
    return extension(
        "ascendspeed._npu",
        NPU_SOURCES,
        extra_compile_args=[
            flag for path in [*folders, ROOT / "csrc/hostcann/include"] for flag in ("-isystem", str(path))
        ],
        libraries=["torch_npu"],
        library_dirs=[str(torch_npu / "lib")],
    )


def extensions() -> list[Extension]:
    if os.environ.get("ASCENDSPEED_EXTENSIONS_BUILT") == "1":  # they lie where an editable installation finds them
        return []
    built = [extension("ascendspeed._C", [*SOURCES, *ISA_FLAGS], extra_link_args=["-fopenmp"])]
    torch_npu = find_spec("torch_npu")  # without importing it
    if torch_npu is not None and torch_npu.submodule_search_locations:
        if tuple(map(int, version("torch_npu").split(".")[:2])) < (2, 13):
            raise SystemExit(f"setup.py: the NPU kernels need torch_npu 2.13, and {version('torch_npu')} is installed")
        built.append(npu_extension(Path(torch_npu.submodule_search_locations[0])))
    return built


setup(
    license="Apache-2.0",
    ext_modules=extensions(),
    cmdclass={"build_ext": Build.with_options(use_ninja=False)},
)
