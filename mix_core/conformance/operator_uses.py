"""L2's uses of Paddle's kernels: each kernel that the models call, with shapes as they call it with.

`kernels` of operators.json is what models were seen to call (collect.py); every name there is covered by a
use here, which a test holds. The formula is the same call in float64 on the host: Paddle's own CPU kernel.
Shapes are small and not multiples of a chip's tiles.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mix_core.conformance.measure import Input, Use
from mix_core.conformance.target import FLOATS


@dataclass(frozen=True)
class Kernel:
    """A use of Paddle's kernels and the names of those it is about."""

    use: Use
    covers: tuple[str, ...]
    dtypes: tuple[str, ...] | None = None
    """In place of the floating dtypes of the device."""
    in_place: str | None = None
    """Name of the tensor's method that does the same in place."""


X, Y, ROW = Input("x", (7, 33)), Input("y", (7, 33)), Input("row", (33,))
POSITIVE = Input("x", (7, 33), kind="positive")
DIVISOR = Input("y", (7, 33), kind="positive")
DISTINCT = Input("x", (7, 33), kind="distinct")
INTEGERS = ("int64", "int32")
COUNTS = Input("x", (7, 33), kind="whole", bound=100)
IDS = Input("ids", (2, 9), kind="whole", dtype="int64", bound=20)


def paddle_call(name: str, *rest: Any, **options: Any) -> Callable[..., Any]:
    """A function of paddle by its dotted name, with further arguments: paddle is not imported yet."""

    def call(*tensors: Any) -> Any:
        import paddle

        found: Any = paddle
        for part in name.split("."):
            found = getattr(found, part)
        return found(*tensors, *rest, **options)

    return call


def same(name: str, *rest: Any, **options: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    call = paddle_call(name, *rest, **options)
    return call, call


def kernels() -> list[Kernel]:
    """All of them; the name of a use is unique."""
    return [
        *_elementwise(),
        *_products_and_sums(),
        *_shapes(),
        *_by_index(),
        *_comparisons(),
        *_fused(),
        *_made(),
    ]


def _of(
    name: str,
    covers: str,
    inputs: tuple[Input, ...],
    calls: tuple[Callable[..., Any], Callable[..., Any]],
    *,
    exact: bool = False,
    dtypes: tuple[str, ...] | None = None,
    in_place: str | None = None,
) -> Kernel:
    kernels = tuple(covers.split())
    gradient = any(kernel.endswith("_grad") for kernel in kernels)  # others the models never go back through
    use = Use(kernels[0], name, inputs, *calls, gradient=gradient, exact=exact)
    return Kernel(use, kernels, dtypes, in_place)


def _elementwise() -> list[Kernel]:
    rows = [
        _of("add", "add add_grad", (X, Y), same("add"), in_place="add_"),
        _of("add a row", "add add_grad", (X, ROW), same("add"), in_place="add_"),
        _of("add whole numbers", "add", (COUNTS, COUNTS), same("add"), exact=True, dtypes=INTEGERS),
        _of("subtract", "subtract", (X, Y), same("subtract"), in_place="subtract_"),
        _of("multiply", "multiply multiply_grad", (X, Y), same("multiply"), in_place="multiply_"),
        _of("multiply a row", "multiply", (X, ROW), same("multiply"), in_place="multiply_"),
        _of("divide", "divide", (X, DIVISOR), same("divide")),
        _of("minimum", "minimum", (DISTINCT, Y), same("minimum")),
        _of("scale", "scale", (X,), same("scale", 0.37, 0.5), in_place="scale_"),
        _of("scale after bias", "scale", (X,), same("scale", 0.37, 0.5, False)),
        _of("exp", "exp", (X,), same("exp")),
        _of("log", "log", (POSITIVE,), same("log")),
        _of("tanh", "tanh", (X,), same("tanh"), in_place="tanh_"),
        _of("sigmoid", "sigmoid sigmoid_grad", (X,), same("nn.functional.sigmoid")),
        _of("square", "square", (X,), same("square")),
        _of("rsqrt", "rsqrt", (POSITIVE,), same("rsqrt")),
        _of("add_n", "add_n", (X, Y), (_add_n, _add_n)),
        _of("assign", "assign", (X,), same("assign"), exact=True),
        _of("assign whole numbers", "assign", (COUNTS,), same("assign"), exact=True, dtypes=INTEGERS),
    ]
    return rows


def _add_n(*tensors: Any) -> Any:
    import paddle

    return paddle.add_n(list(tensors))


def _products_and_sums() -> list[Kernel]:
    a, b = Input("x", (7, 65)), Input("y", (65, 19), 0.125)
    batch = (Input("x", (3, 5, 17)), Input("y", (3, 17, 9), 0.25))
    return [
        _of("matmul", "matmul matmul_grad", (a, b), same("matmul")),
        _of(
            "matmul, y turned",
            "matmul matmul_grad",
            (a, Input("y", (19, 65), 0.125)),
            same("matmul", False, True),
        ),
        _of(
            "matmul, x turned",
            "matmul matmul_grad",
            (Input("x", (65, 7), 0.125), Input("y", (65, 19))),
            same("matmul", True, False),
        ),
        _of("matmul of batches", "matmul matmul_grad", batch, same("matmul")),
        _of(
            "matmul, one row",
            "matmul matmul_grad",
            (Input("x", (1, 130), 0.1), Input("y", (130, 77))),
            same("matmul"),
        ),
        _of(
            "matmul, large",
            "matmul matmul_grad",
            (Input("x", (67, 259)), Input("y", (259, 130), 0.06)),
            same("matmul"),
        ),
        _of("sum of all", "sum", (POSITIVE,), same("sum")),
        _of("sum of rows", "sum", (POSITIVE,), same("sum", axis=-1, keepdim=True)),
        _of("sum of columns", "sum", (POSITIVE,), same("sum", axis=0)),
        _of("squared_l2_norm", "squared_l2_norm", (X,), (paddle_call("_C_ops.squared_l2_norm"), _squares)),
        _of("cumsum", "cumsum", (POSITIVE,), same("cumsum", axis=-1)),
        _of("max of rows", "max", (DISTINCT,), same("max", axis=-1, keepdim=True)),
        _of("max of all", "max", (DISTINCT,), same("max")),
        _of("min of rows", "min", (DISTINCT,), same("min", axis=-1)),
        _of("softmax", "softmax softmax_grad", (X,), same("nn.functional.softmax", -1)),
        _of(
            "softmax, far apart",
            "softmax softmax_grad",
            (Input("x", (5, 40), 30.0),),
            same("nn.functional.softmax", -1),
            dtypes=("float32", "float64"),
        ),
    ]


def _squares(x: Any) -> Any:
    return (x * x).sum().reshape([1])


def _shapes() -> list[Kernel]:
    cube = Input("x", (3, 4, 10))
    return [
        _of("reshape", "reshape reshape_grad", (cube,), same("reshape", [12, 10]), exact=True),
        _of("concat", "concat concat_grad", (X, Y), (_concat(0), _concat(0)), exact=True),
        _of(
            "concat last",
            "concat concat_grad",
            (X, Input("y", (7, 5))),
            (_concat(-1), _concat(-1)),
            exact=True,
        ),
        _of("split in equal parts", "split_with_num", (cube,), same("split", 2, axis=-1), exact=True),
        _of("slice", "slice slice_grad strided_copy", (cube,), (_middle, _middle), exact=True),
        _of("expand", "expand expand_grad", (Input("x", (1, 33)),), same("expand", [7, 33])),
        _of("stack", "stack", (X, Y), (_stack, _stack), exact=True),
        _of("squeeze", "squeeze", (Input("x", (3, 1, 10)),), same("squeeze", 1), exact=True),
        _of("unsqueeze", "unsqueeze", (X,), same("unsqueeze", 1), exact=True),
        _of(
            "unsqueeze whole numbers",
            "unsqueeze",
            (COUNTS,),
            same("unsqueeze", -1),
            exact=True,
            dtypes=INTEGERS,
        ),
        _of("transpose", "transpose transpose_grad", (cube,), same("transpose", [2, 0, 1]), exact=True),
        _of("contiguous", "contiguous", (X,), (_turned, _turned), exact=True),
        _of("cast up and down", "cast", (X,), (_there_and_back, _unchanged), exact=True, dtypes=FLOATS),
        _of(
            "cast whole numbers",
            "cast",
            (COUNTS,),
            (_whole_and_back, _whole_and_back),
            exact=True,
            dtypes=INTEGERS,
        ),
    ]


def _turned(x: Any) -> Any:
    import paddle

    return paddle.transpose(x, [1, 0]).contiguous()


def _concat(axis: int) -> Callable[..., Any]:
    def call(*tensors: Any) -> Any:
        import paddle

        return paddle.concat(list(tensors), axis=axis)

    return call


def _stack(*tensors: Any) -> Any:
    import paddle

    return paddle.stack(list(tensors), axis=1)


def _middle(x: Any) -> Any:
    return x[:, 1:3]


def _there_and_back(x: Any) -> Any:
    return (
        x.astype("float32").astype(x.dtype) if str(x.dtype) != "paddle.float32" else x.astype("float32") + 0.0
    )


def _whole_and_back(x: Any) -> Any:
    return x.astype("float32").astype(x.dtype)


def _unchanged(x: Any) -> Any:
    return x * 1.0


def _by_index() -> list[Kernel]:
    rows = Input("index", (5,), kind="whole", dtype="int64", bound=7)
    narrow = Input("index", (5,), kind="whole", dtype="int32", bound=7)
    columns = Input("index", (7, 3), kind="whole", dtype="int64", bound=33)
    table = Input("weight", (20, 12))
    return [
        _of("gather", "gather gather_grad", (X, rows), same("gather"), exact=True),
        _of("gather by int32", "gather gather_grad", (X, narrow), same("gather"), exact=True),
        _of("index_sample", "index_sample", (X, columns), same("index_sample"), exact=True),
        _of(
            "index_sample of int32",
            "index_sample",
            (COUNTS, columns),
            same("index_sample"),
            exact=True,
            dtypes=("int32",),
        ),
        _of("embedding", "embedding embedding_grad", (table, IDS), (_embedding, _embedding)),
        _of(
            "scatter",
            "scatter scatter_grad",
            (X, Input("updates", (4, 33))),
            (_scatter, _scatter),
            exact=True,
        ),
        _of("scatter_nd_add", "scatter_nd_add", (X, Input("updates", (4, 33))), (_scatter_add, _scatter_add)),
        _of("one_hot", "one_hot", (IDS,), same("nn.functional.one_hot", 20), exact=True, dtypes=("int64",)),
        _of("topk", "topk", (DISTINCT,), same("topk", 4), exact=True, dtypes=("float32",)),
        _of("argmax", "argmax", (DISTINCT,), same("argmax", axis=-1), exact=True),
    ]


def _embedding(weight: Any, ids: Any) -> Any:
    import paddle

    return paddle.nn.functional.embedding(ids, weight)


def _scatter(x: Any, updates: Any) -> Any:
    import paddle

    return paddle.scatter(x, paddle.to_tensor(np.array([5, 0, 3, 6])), updates)


def _scatter_add(x: Any, updates: Any) -> Any:
    import paddle

    return paddle.scatter_nd_add(x, paddle.to_tensor(np.array([[5], [0], [5], [6]])), updates)


def _comparisons() -> list[Kernel]:
    a, b = Input("x", (7, 33), kind="whole", bound=3), Input("y", (7, 33), kind="whole", bound=3)
    flags = (Input("x", (7, 33), kind="bool", dtype="bool"), Input("y", (7, 33), kind="bool", dtype="bool"))
    names = ("equal", "greater_than", "less_than", "less_equal")
    rows = [_of(name, name, (a, b), same(name), exact=True) for name in names]
    whole = [
        _of(f"{name} of whole numbers", name, (a, b), same(name), exact=True, dtypes=("int64",))
        for name in names
    ]
    return [
        *rows,
        *whole,
        _of("logical_or", "logical_or", flags, same("logical_or"), exact=True, dtypes=("bool",)),
    ]


def _fused() -> list[Kernel]:
    labels = Input("labels", (7, 1), kind="whole", dtype="int64", bound=33)
    return [
        _of("gelu", "gelu gelu_grad", (X,), same("nn.functional.gelu")),
        _of("gelu, tanh", "gelu gelu_grad", (X,), same("nn.functional.gelu", True)),
        _of("swiglu", "swiglu swiglu_grad", (X, Y), (paddle_call("_C_ops.swiglu"), _swiglu)),
        _of(
            "layer norm",
            "layer_norm layer_norm_grad",
            (X, Input("weight", (33,)), Input("bias", (33,))),
            (_layer_norm, _layer_norm),
            dtypes=("float32",),
        ),
        _of(
            "cross entropy",
            "cross_entropy_with_softmax cross_entropy_with_softmax_grad",
            (X, labels),
            (_cross_entropy, _cross_entropy),
            dtypes=("float32",),
        ),
    ]


def _swiglu(gate: Any, up: Any) -> Any:
    import paddle

    return gate * paddle.nn.functional.sigmoid(gate) * up


def _layer_norm(x: Any, weight: Any, bias: Any) -> Any:
    import paddle

    return paddle.nn.functional.layer_norm(x, 33, weight, bias, 1e-5)


def _cross_entropy(logits: Any, labels: Any) -> Any:
    import paddle

    return paddle.nn.functional.cross_entropy(logits, labels, reduction="none")


def _made() -> list[Kernel]:
    """Tensors made from numbers; the input gives shape and dtype only."""
    return [
        _of("full_like", "full_like", (X,), same("full_like", 2.5), exact=True),
        _of("full", "full", (X,), (_full, _full), exact=True),
        _of(
            "full of whole numbers",
            "full",
            (COUNTS,),
            (_full_whole, _full_whole),
            exact=True,
            dtypes=INTEGERS,
        ),
        _of("fill", "fill", (X,), (_filled, _full), exact=True),
        _of("arange", "arange_tensor", (COUNTS,), (_arange, _arange), exact=True, dtypes=("int64",)),
        _of(
            "set_value",
            "set_value_with_tensor",
            (X, Input("part", (2, 33))),
            (_set_rows, _set_rows_reference),
            exact=True,
        ),
    ]


def _full(x: Any) -> Any:
    import paddle

    return paddle.full(x.shape, 2.5, x.dtype)


def _filled(x: Any) -> Any:
    return x.clone().fill_(2.5)


def _full_whole(x: Any) -> Any:
    import paddle

    return paddle.full(x.shape, 7, x.dtype)


def _arange(x: Any) -> Any:
    import paddle

    return paddle.arange(3, 40, 2, x.dtype)


def _set_rows(x: Any, part: Any) -> Any:
    y = x.clone()
    y[2:4] = part
    return y


def _set_rows_reference(x: Any, part: Any) -> Any:
    import paddle

    return paddle.concat([x[:2], part, x[4:]])
