"""The encoder against facts of other origin: meaning, geometry, another implementation, known values."""

from __future__ import annotations

import numpy as np
import pytest

from numba_fa.demo.encoder import _gelu
from numba_fa.demo.naive import naive_attention

TRIPLETS = [
    (
        "A dog is running through the park.",
        "A puppy races across the grass.",
        "The bank raised interest rates.",
    ),
    ("She cannot sleep at night.", "She suffers from insomnia.", "He painted the fence green."),
    (
        "The train was late.",
        "The railway service arrived behind schedule.",
        "Tomatoes grow best in full sun.",
    ),
    ("How do I reset my password?", "I forgot my login details.", "Which planet has the most moons?"),
]


@pytest.mark.parametrize("triplet", TRIPLETS, ids=lambda triplet: triplet[0])
def test_paraphrase_is_closer_than_another_subject(encoder, plain_attention, triplet):
    one, paraphrase, other = encoder.encode(triplet, plain_attention).embeddings
    assert one @ paraphrase > one @ other + 0.2


def test_embeddings_have_length_one(encoder, plain_attention):
    encoding = encoder.encode([sentence for triplet in TRIPLETS for sentence in triplet], plain_attention)
    assert encoding.embeddings.shape == (12, 384)
    assert encoding.embeddings.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(encoding.embeddings, axis=1), 1, atol=1e-6)


def test_a_sentence_is_the_same_alone_and_in_company(encoder, plain_attention):
    # The first two share a batch (six tokens each with [CLS] and [SEP]), the third has a length of its own.
    sentences = ["the cat sat down", "a dog ran home", "green ideas sleep furiously in winter"]
    together = encoder.encode(sentences, plain_attention)
    assert [len(tokens) for tokens in together.tokens[:2]] == [6, 6]
    alone = np.concatenate([encoder.encode([one], plain_attention).embeddings for one in sentences])
    np.testing.assert_allclose(together.embeddings, alone, atol=2e-6)


def test_order_of_the_sentences_is_kept(encoder, plain_attention):
    sentences = ["one two three four five", "one", "one two three"]
    forward = encoder.encode(sentences, plain_attention)
    backward = encoder.encode(sentences[::-1], plain_attention)
    assert [tokens[1:-1] for tokens in forward.tokens] == [sentence.split() for sentence in sentences]
    np.testing.assert_allclose(forward.embeddings, backward.embeddings[::-1], atol=2e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_attention_is_called_once_a_layer_and_batch(encoder, plain_attention, dtype):
    seen = []

    def recording(q, k, v):
        seen.append([(a.shape, a.dtype) for a in (q, k, v)])
        return plain_attention(q, k, v)

    heard = []
    encoder.encode(
        ["the cat sat down", "hello", "a dog ran home"], recording, dtype, lambda *batch: heard.append(batch)
    )
    short, long = ((1, 3, 12, 32), np.dtype(dtype)), ((2, 6, 12, 32), np.dtype(dtype))
    assert seen == [[short] * 3] * 6 + [[long] * 3] * 6
    assert heard == [([1], 3), ([0, 2], 6)]


def test_recorded_calls_belong_to_their_sentence(encoder):
    sentences = ["the cat sat down", "a dog ran home"]
    encoding = encoder.encode(sentences, naive_attention)
    for s, sentence in enumerate(sentences):
        alone = encoder.encode([sentence], naive_attention)
        assert len(encoding.calls[s]) == len(encoding.layer_inputs[s]) == 6
        for layer in range(6):
            own, expected = encoding.calls[s][layer], alone.calls[0][layer]
            assert own.q.shape == (1, 6, 12, 32) and own.lse.shape == (1, 12, 6)
            np.testing.assert_allclose(own.out, expected.out, atol=1e-4)
            np.testing.assert_allclose(
                encoding.layer_inputs[s][layer], alone.layer_inputs[0][layer], atol=1e-4
            )


def test_the_attention_decides_the_embedding(encoder, plain_attention):
    def blind(q, k, v):
        return np.zeros_like(q), np.zeros((q.shape[0], q.shape[2], q.shape[1]), np.float32)

    sentence = [TRIPLETS[0][0]]
    seeing = encoder.encode(sentence, plain_attention).embeddings[0]
    assert seeing @ encoder.encode(sentence, blind).embeddings[0] < 0.9


def test_wrong_shape_from_the_attention_is_named(encoder, plain_attention):
    def transposed(q, k, v):
        out, lse = plain_attention(q, k, v)
        return out, lse.swapaxes(1, 2)

    with pytest.raises(ValueError, match=r"lse \(1, 3, 12\).*needs \(1, 3, 12, 32\) and \(1, 12, 3\)"):
        encoder.encode(["hello"], transposed)


def test_long_text_is_cut_at_the_models_limit(checkpoint):
    # The model card of all-MiniLM-L6-v2: longer text is truncated to 256 word pieces.
    tokens = checkpoint.tokenizer.encode("word " * 400).tokens
    assert len(tokens) == 256
    assert tokens[-1] == "[SEP]"


def test_agrees_with_the_transformers_library(encoder, plain_attention):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from numba_fa.demo.weights import model_folder

    theirs = transformers.BertModel.from_pretrained(str(model_folder()), local_files_only=True).eval()
    sentences = [sentence for triplet in TRIPLETS for sentence in triplet]
    ours = encoder.encode(sentences, plain_attention).embeddings
    for sentence, embedding in zip(sentences, ours, strict=True):
        ids = torch.tensor([encoder.checkpoint.tokenizer.encode(sentence).ids])
        with torch.no_grad():
            mean = theirs(ids).last_hidden_state.mean(dim=1)[0]
        np.testing.assert_allclose(embedding, (mean / mean.norm()).numpy(), atol=2e-6)


def test_gelu_is_x_times_the_normal_distribution_function():
    # Phi(1) and Phi(2) from the table of the normal distribution.
    x = np.array([-1, 0, 1, 2], np.float32)
    np.testing.assert_allclose(_gelu(x), [-(1 - 0.8413447), 0, 0.8413447, 2 * 0.9772499], atol=1e-6)
    assert _gelu(x).dtype == np.float32
