"""Compiles every kernel for an H100, which needs no GPU; prints a name for each that went through.

A program of its own, because Triton decides at import whether kernels are interpreted.
"""

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ifa_ray.cuda import codes_triton, reads_triton, sums_triton

TILES = {"BT": 32, "BC": 32, "BF": 64, "BE": 64, "BD": 64, "BH": 64, "BX": 16, "BS": 32,
         "BLOCK": 64}  # fmt: skip
ALWAYS_FLOAT32 = ("sums_ptr", "second_sums_ptr", "out_ptr", "parts_ptr", "bias_ptr", "age_ptr",
                  "rate_ptr")  # fmt: skip
INTEGERS = {"mask_ptr": "*u8", "rows_ptr": "*i64", "more_rows_ptr": "*i64", "actions_ptr": "*i64",
            "codes_ptr": "*i64", "size_ptr": "*i32", "start_ptr": "*i32",
            "bit_ptr": "*i32"}  # fmt: skip


def constant(name):
    if name in TILES:
        return TILES[name]
    if name in ("PHI", "SECOND_PHI"):
        return "softplus"
    if name == "WIDE":
        return False
    return True if name.isupper() and "HAS" in name else None


def kind_of(name, tables):
    if name in INTEGERS:
        return INTEGERS[name]
    if name == "eps":
        return "fp32"
    if not name.endswith("_ptr"):
        return "i32"
    gradient = "grad" in name or name.startswith(("d", "second_d", "blocks", "phi", "second_phi"))
    return "*fp32" if gradient or name in ALWAYS_FLOAT32 else f"*{tables}"


def compile_one(kernel, tables, warps):
    constants, signature = {}, {}
    for place, name in enumerate(kernel.arg_names):
        value = constant(name)
        signature[name] = "constexpr" if value is not None else kind_of(name, tables)
        if value is not None:
            constants[(place,)] = value
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    target = GPUTarget("cuda", 90, 32)
    done = triton.compile(source, target=target, options={"num_warps": warps, "num_stages": 2})
    assert len(done.asm["cubin"]) > 0
    assert done.metadata.shared <= 227 * 1024  # what a processor of an H100 has


KERNELS = (
    (sums_triton.partial_sums, 4),
    (sums_triton._add_stretches, 4),
    (sums_triton._gradients, 8),
    (reads_triton.read_tile, 8),
    (reads_triton._gradients, 8),
    (codes_triton.add_tile, 4),
)

if __name__ == "__main__":
    for tables in ("fp32", "bf16"):
        for kernel, warps in KERNELS:
            compile_one(kernel, tables, warps)
            print(kernel.__module__, kernel.__name__, tables)
