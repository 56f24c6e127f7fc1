"""Single-precision matrix product of tiles, register-blocked, in the calling thread.

A vendor BLAS is not used on purpose: OpenBLAS starts its own threads once rows * cols * count passes 64**3,
and outer threads that call it then oversubscribe the cores (two cores, two callers: 128 x 64 x 64 ran at 40
GFLOP/s against 119 at 64**3, and 123 with OPENBLAS_NUM_THREADS=1). The product below keeps a 4 x 16 block of
the result in vector registers, as in K. Goto and R. van de Geijn, "Anatomy of high-performance matrix
multiplication", ACM TOMS 34(3), 2008, section 4, and needs no packing because both tiles already fit the
first-level or second-level cache.
"""

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

ROWS, LANES, VECTORS = 4, 8, 2
COLS = LANES * VECTORS
LANE_BYTES = 4


@njit
def round_up(size, multiple):
    """Smallest multiple of ``multiple`` that is at least ``size``."""
    return -(-size // multiple) * multiple


def _data(context, builder, array_type, array):
    """The data pointer and the shape of an array argument of an intrinsic."""
    proxy = context.make_array(array_type)(context, builder, array)
    return proxy.data, cgutils.unpack_tuple(builder, proxy.shape, array_type.ndim)


@intrinsic
def _accumulate_block(typing_context, a, i, b, b_start, b_row, b_step, c, j, count):
    """Add ``sum_t a[t, i:i+16] * b[b_start + r * b_row + t * b_step]`` to ``c[j+r, i:i+16]`` for r in 0..3.

    ``a`` and ``c`` are C-contiguous 2-D float32 arrays, ``b`` likewise but read as flat memory; the rest
    are int64.
    """
    vector = ir.VectorType(ir.FloatType(), LANES)
    index = ir.IntType(64)

    def codegen(context, builder, signature, args):
        a_val, i_val, b_val, start, row, step, c_val, j_val, trips = args
        a_ptr, (_, a_ld) = _data(context, builder, signature.args[0], a_val)
        b_ptr, _ = _data(context, builder, signature.args[2], b_val)
        c_ptr, (_, c_ld) = _data(context, builder, signature.args[6], c_val)
        fmuladd = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fmuladd.v{LANES}f32")
        broadcast = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)

        def vectors_at(pointer, line, stride):
            """Pointers to the two vectors at element (line, i) of a row-major tile."""
            first = builder.add(builder.mul(line, stride), i_val)
            elements = [builder.add(first, index(LANES * n)) for n in range(VECTORS)]
            return [builder.bitcast(builder.gep(pointer, [e]), vector.as_pointer()) for e in elements]

        def load(pointer):
            value = builder.load(pointer)
            value.align = LANE_BYTES
            return value

        places = [p for r in range(ROWS) for p in vectors_at(c_ptr, builder.add(j_val, index(r)), c_ld)]
        entry = builder.block
        body, done = builder.append_basic_block("fma"), builder.append_basic_block("fma.done")
        initial = [load(p) for p in places]
        builder.cbranch(builder.icmp_signed(">", trips, index(0)), body, done)
        builder.position_at_end(body)
        t = builder.phi(index)
        sums = [builder.phi(vector) for _ in places]
        a_vectors = [load(p) for p in vectors_at(a_ptr, t, a_ld)]
        results = []
        for r in range(ROWS):
            element = builder.add(builder.add(start, builder.mul(row, index(r))), builder.mul(t, step))
            scalar = builder.load(builder.gep(b_ptr, [element]))
            lane = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.IntType(32)(0))
            b_vector = builder.shuffle_vector(lane, ir.Constant(vector, ir.Undefined), broadcast)
            results += [builder.call(fmuladd, [x, b_vector, s])
                        for x, s in zip(a_vectors, sums[r * VECTORS:], strict=False)]
        following = builder.add(t, index(1))
        builder.cbranch(builder.icmp_signed("<", following, trips), body, done)
        for phi, first, later in zip([t, *sums], [index(0), *initial], [following, *results], strict=True):
            phi.add_incoming(first, entry)
            phi.add_incoming(later, body)
        builder.position_at_end(done)
        finals = [builder.phi(vector) for _ in places]
        for final, first, later, place in zip(finals, initial, results, places, strict=True):
            final.add_incoming(first, entry)
            final.add_incoming(later, body)
            builder.store(final, place).align = LANE_BYTES
        return context.get_dummy_value()

    tile = types.Array(types.float32, 2, "C")
    size = types.int64
    return types.void(tile, size, tile, size, size, size, tile, size, size), codegen


@njit(error_model="numpy")
def add_product(a, b, b_row, b_step, c, rows, cols, count):
    """``c[j, i] += sum_t a[t, i] * b.flat[j * b_row + t * b_step]`` for j < rows, i < cols, t < count.

    All three are C-contiguous 2-D float32. ``rows`` and ``cols`` are rounded up to 4 and 16, so ``c`` must
    have that much room, ``a`` that many columns and ``b`` that many rows (their surplus values are multiplied
    and never mixed into other elements). With ``(b_row, b_step) = (ld, 1)`` b stands as it is, with
    ``(1, ld)`` transposed.
    """
    for i in range(0, cols, COLS):
        for j in range(0, rows, ROWS):
            _accumulate_block(a, i, b, j * b_row, b_row, b_step, c, j, count)
