"""run the toy experiment below an object root, or return its finished result

    <root>/toy/<digest>/result.json            the result, written last
          /toy/models/<digest>.safetensors     the models, or their last checkpoint

A killed run continues from its checkpoint and gives the same bytes.
"""

from data_prep.core import storage, telemetry
from eval.toy import measure_replicas
from eval.toy.config import ToyConfig
from eval.toy.replicas import train_replicas
from eval.toy.toy_result import ToyResult, models_uri, result_uri


def run(root: str, config: ToyConfig) -> ToyResult:
    """The result of these settings below `root`."""
    uri = result_uri(root, config)
    if storage.exists(uri):
        telemetry.logger.info("found the finished result: %s", uri)
        return storage.load(ToyResult, uri)
    drawn_KNR = train_replicas.draw_all(config)
    storage.check_writable(storage.join(root, "toy"))
    trained = train_replicas.train(config, drawn_KNR, models_uri(root, config))
    result = measure_replicas.measure(config, trained.parameters, drawn_KNR)
    storage.save(result, uri)
    return result
