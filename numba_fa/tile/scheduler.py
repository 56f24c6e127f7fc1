"""Which tile of queries a block computes at each of its turns."""


def turn_of(wave, block, blocks):
    """The turn that a block takes in a wave of all blocks: every other wave runs backwards.

    Turns come in order of falling work within a wave; who had the longest tile in one wave has the shortest in the next.
    """
    return wave * blocks + (blocks - 1 - block if wave & 1 else block)


def locate(turn, tiles, heads, batch, together):
    """The (tile, head, batch index) of a turn: `together` heads at a time, each head's last tile first.

    Within a group of heads all last tiles come before all last but one, so that under a causal mask the longest work
    starts earliest; a group is small enough for its keys and values to stay in L2 until its last tile.
    """
    size = tiles * together
    group = turn // size
    rest = turn - group * size
    here = min(together, heads * batch - group * together)
    behind = rest // here
    head = group * together + rest - behind * here
    return tiles - 1 - behind, head % heads, head // heads


def balance(tiles: int, heads: int, together: int, blocks: int, first: float) -> float:
    """How even the work of persistent blocks is: the mean block's over the busiest one's, 1 at best.

    The work of tile t is first + t: what its diagonal position costs, in tiles. heads: of all batches. Looks at no more
    than 64 waves; what later ones add is small beside those.
    """
    load = [0.0] * blocks
    total = min(tiles * heads, 64 * blocks)
    for wave in range(-(-total // blocks)):
        for block in range(blocks):
            turn = turn_of(wave, block, blocks)
            if turn < total:
                load[block] += first + locate(turn, tiles, heads, 1, together)[0]
    return sum(load) / blocks / max(load)
