"""The probe that was trained beside the encoder, scored on test images.

It was trained while the encoder changed, so it shows how training went; `linear` measures what the
features are worth. Only the student has an online probe, so there are no controls.
"""

from typing import ClassVar, Literal

from pipeline.base.errors import WeightsError
from pipeline.evaluation.logistic import LinearClassifier
from pipeline.evaluation.protocol import Outcome, ProtocolOptions, Setting, classified
from pipeline.evaluation.subjects import Subject


class OnlineOptions(ProtocolOptions):
    """`evaluate.<name>` of kind online, which has no options."""

    has_controls: ClassVar[bool] = False

    kind: Literal["online"] = "online"

    def score(self, subject: Subject, setting: Setting) -> Outcome:
        """Score the checkpoint's own probe.

        Raises WeightsError if the checkpoint holds none, or one for other classes or features.
        """
        images, probe = setting.images, setting.checkpoint.probe
        test = subject.labelled(images, "test")
        if probe is None:
            raise WeightsError(
                "The checkpoint holds no online probe, as it was trained without labels: leave the "
                "protocol out of `evaluate`, or use linear."
            )
        weight, bias = probe["weight"], probe["bias"]
        expected = (len(images.classes), test.features.shape[1])
        if weight.shape != expected or bias.shape != expected[:1]:
            raise WeightsError(
                f"The checkpoint's probe maps {weight.shape[1]} features to {weight.shape[0]} "
                f"classes; this data set needs {expected[1]} to {expected[0]}: evaluate by linear "
                "instead."
            )
        columns = test.labels.new_tensor(range(len(images.classes)))
        classifier = LinearClassifier(weight.float().T.contiguous(), bias.float(), columns)
        shares = classifier.logits(test.features).double().softmax(dim=1)
        return classified(shares, columns, setting, images={"test": len(test)}, values={})
