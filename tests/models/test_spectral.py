"""The transform is invertible whatever its window, at any length."""

import pytest
import torch

from stemsplit.models.spectral import SpectralNetwork, Transform

TRANSFORMS = [
    Transform(64, 16),
    Transform(64, 27),
    Transform(64, 16, normalised=True),
    Transform(64, 16, window_size=48),
    Transform(64, 32, trim=2, reflect=False),
    Transform(64, 16, rectangular=True, normalised=True),
]


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("samples", [1, 2, 31, 32, 33, 64, 65, 1000])
def test_there_and_back(transform: Transform, samples: int) -> None:
    x = torch.randn(2, 2, samples)
    z = transform.analyse(x)
    assert z.shape == (2, 2, transform.bins, samples // transform.hop + 1)
    torch.testing.assert_close(transform.synthesise(z, samples), x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reflect", [True, False])
def test_it_is_the_usual_centred_transform(reflect: bool) -> None:
    x = torch.randn(1, 2, 300)
    z = Transform(64, 16, window_size=50, reflect=reflect).analyse(x)
    window = torch.hann_window(50)
    mode = "reflect" if reflect else "constant"
    expected = torch.stft(x[0], 64, 16, 50, window, pad_mode=mode, return_complex=True)
    torch.testing.assert_close(z[0], expected)


def test_a_trimmed_window_has_no_zeros() -> None:
    z = Transform(8, 4, trim=1, reflect=False).analyse(torch.ones(1, 1, 8))
    window = torch.hann_window(10)[1:9]
    torch.testing.assert_close(z[0, 0, 0, 1].real, window.sum())


def test_a_family_has_to_estimate_spectrograms() -> None:
    network = SpectralNetwork(
        None, stems=("a",), sample_rate=1, channels=1, segment_samples=1, transform=Transform(8, 4)
    )
    with pytest.raises(TypeError, match="SpectralNetwork"):
        network(torch.zeros(1, 1, 1))
