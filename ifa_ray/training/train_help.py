"""What `python -m ifa_ray train --help` teaches; text alone."""

HELP = """\
Train one model on a log, in the order of its requests: every batch is predicted first and learned
from then, so the metrics are those of a model that has seen nothing of what it is asked. After
each --publish-every the model is judged and published as a version, which a ranker can serve.

  OUT/models/version=00003/   weights, settings, metrics and place in the log; checksummed
  OUT/metrics.jsonl           AUC, GAUC, log loss and calibration of each window, by objective;
                              what is not defined is null, and `undefined` says why
  OUT/plots/*.svg             the same as lines
  OUT/gates/*.json            why each version was published, or was not
  OUT/tables.json             how many ids share a row of the hashed tables

A training that was killed, at any moment, goes on with --resume and writes the same bytes that it
would have written undisturbed. So does one whose log has grown since.

  status 0  done      2  a mistake, said in one line      3  the gate refused a version
         4  one of several workers was lost; --resume goes on
         5  done, but the store of --publish-to lacks versions
"""

EPILOG = """\
examples:
  # Films: all requests, a version and a line of metrics every 500.
  python -m ifa_ray train --data ml-latest-small --out trained/films

  # The log of one arm of a finished run, a version for each day, metrics by hour.
  python -m ifa_ray train --data runs/quick --arm twin --model ifa_plus --out trained/quick \\
      --publish-every day --metrics-every hour

  # It was killed, or the log has new days: the same command, and --resume.
  python -m ifa_ray train --data runs/quick --arm twin --model ifa_plus --out trained/quick \\
      --publish-every day --metrics-every hour --resume

  # Two processes learn one model, each half of every batch.
  python -m ifa_ray train --data ml-latest-small --out trained/films --batch-size 8 --workers 2

  # A log of your own (docs/adapters.md), with curves for TensorBoard.
  python -m ifa_ray train --data my_log=my_adapters:read_shop --out trained/shop --tensorboard

  # New items came: begin with what an earlier catalogue has taught.
  python -m ifa_ray train --data shop_may --out trained/may \\
      --warm-start trained/april/models/version=00029 --allow-added-items

  # Each version goes to a bucket too, from where rankers take it (docs/training.md).
  python -m ifa_ray train --data shop_may --out trained/may \
      --publish-to "s3://models/shop?region=eu-west-1"

  # A catalogue in which items leave: ids of which nothing was seen for a month are forgotten.
  python -m ifa_ray train --data shop_may --out trained/may --evict-after-days 30

  # What is there, and back to an earlier version.
  python -m ifa_ray versions list trained/shop
  python -m ifa_ray versions rollback trained/shop --to 7

MovieLens: https://grouplens.org/datasets/movielens/latest/ (ml-latest-small.zip).
"""
