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
