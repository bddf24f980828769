"""The extension module ascendspeed._C; everything else about the package is in pyproject.toml.

Sources are listed one by one, with the flags that a single file needs: an instruction set's flags must not reach any
other file, or the library would crash on machines without it.
"""

import json
import os
import platform
from pathlib import Path

from setuptools import setup

try:
    from torch.utils.cpp_extension import BuildExtension, CppExtension
except ModuleNotFoundError as error:
    raise SystemExit(f"setup.py: the extension is built against torch, which is not installed here ({error})") from None

ROOT = Path(__file__).parent
X86 = platform.machine() in ("x86_64", "AMD64")

# The sources that know no torch are listed with their flags where the build of csrc/hostcann reads them too.
SHARED = json.loads((ROOT / "csrc" / "sources.json").read_text())
SOURCES = [
    *SHARED["attention"],
    *SHARED["cpu"],
    "csrc/torch/flash_attention_cpu.cpp",
    "csrc/torch/library.cpp",
    "csrc/torch/schema.cpp",
    "csrc/torch/tensor_info.cpp",
]
ISA_FLAGS = SHARED["x86"]

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


setup(
    license="Apache-2.0",
    ext_modules=[
        CppExtension(
            "ascendspeed._C",
            SOURCES + (list(ISA_FLAGS) if X86 else []),
            depends=["csrc/sources.json", *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("csrc/**/*.h"))],
            include_dirs=["csrc"],
            extra_compile_args=FLAGS,
            extra_link_args=["-fopenmp"],
        )
    ],
    cmdclass={"build_ext": Build.with_options(use_ninja=False)},
)
