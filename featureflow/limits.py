"""A bound on everything. Bytes, counts and microseconds; units last in the names."""

from __future__ import annotations

# one event
RECORD_BYTES = 64 * 1024          # a larger record is a dead letter
JSON_DEPTH = 256                  # levels of lists and objects in one record, and in one request's body; a decoder recurses
KEY_BYTES = 256                   # an entity id, UTF-8
STRING_BYTES = 1024               # any other string field, UTF-8
CATEGORIES = 256                  # of one categorical field
VECTOR_SIZE = 1024                # numbers in one vector field; in history 8 bytes each
NUMBER_ABS = 2.0**63              # |value| at or above it cannot be summed exactly: a dead letter
INTEGER_ABS = 2**53               # an integer beyond it has no exact float64

# one definitions file
WINDOW_US = 400 * 86_400_000_000
LAST_N = 64
TEXT_BYTES = 128                  # of a string that an aggregation keeps; state holds it in full width for each entry
TEXT_BYTES_UNSAID = 32            # where no width= says otherwise
HALF_LIVES = 40                   # that a decayed value looks back: what is left out weighs less than 2^-40
FEATURES_PER_VIEW = 512
TOP_K = 64                        # values of a top_k
TOP_K_BYTES = 32                  # of a string that a top_k counts; each of its cells has room for so much
TOP_K_BYTES_UNSAID = 16           # where no width= says otherwise
VECTORS_BYTES = 64 * 1024         # of all the vectors in one row of a view's state
SKETCHES = 64                     # approximate aggregations of one view
FIELDS = 512                      # of one event or request: a column each in history
DURATION_US = 36_500 * 86_400_000_000  # disorder, future and ttl; instants and their sums stay within an int64
EXPRESSION_DEPTH = 100            # every reader of an expression recurses
EXPRESSION_NODES = 1_000

# ingest
POLL_RECORDS = 32_000
POLL_BYTES = 16 * 1024 * 1024     # also what Kafka may have on the way to one consumer
BATCH_BYTES = 32 * 1024 * 1024    # of rows that the records of one poll may change; of an event that changes more, fewer are polled,
LEAST_RECORDS = 100               # but no fewer than so many
PAST_RECORDS = 2_000              # of the log's past between two batches of its present
PAST_BYTES = 4 * 1024 * 1024
FEW_EVENTS = 15                   # a state holds at most so many as events; one with more is rows (fewer than a roll-up looks at)
FEW_EVENTS_BYTES = 512            # ... and at most so many bytes
COMMIT_KEYS = 500                 # that one commit writes, of all views: one Lua call, in which every reader waits; it costs by the key
COMMIT_ROWS = 4 * COMMIT_KEYS     # that it folds into
ROLL_UP_ROWS = 4 * COMMIT_KEYS    # written whole in that call, of all views; looked at for each COMMIT_KEYS entities of one
ROW_BYTES = 1024                  # a row of more counts as several, wherever those of one call to the online store are bounded
VISIBILITY_ENTRIES = 10_000       # commits that a visibility stream remembers
FETCH_BYTES = 2 * 1024 * 1024     # of a Kafka partition at a time: a fetch is read whole, and commits wait meanwhile
SLAB_BYTES = 512 * 1024 * 1024    # rows that a worker caches, of all views; entities that were not used for longest go first
PATCHES_PER_KEY = 4_000           # in one commit; more is refused, so a writer writes the value whole
IDS = 1_000_000                   # that one view keeps of one partition's events, to tell duplicates by
SCHEMAS = 1_000                   # of a registry, kept ready of each source
SCHEMA_BYTES = 1024 * 1024        # an answer of a registry
SCHEMA_REFERENCES = 64            # other schemas that one needs
DEAD_LETTER_VALUE_BYTES = 4 * 1024
DEAD_LETTERS = 500                # encoded and appended at once; a poll of nothing else has POLL_RECORDS, for each view
BUCKETS = 1024                    # that states are in

# serving
REQUEST_BYTES = 1024 * 1024
BODIES_BYTES = 256 * 1024 * 1024  # of requests that are not answered yet, of one process, beside the plain ones of up to 64 KiB
CONNECTIONS = 8_192               # of one process; fewer where it may have fewer files open; a caller has a share of both
ROWS_PER_REQUEST = 1_000
LOOKUP_IDS = 100_000              # that wait for their features beyond the coming turn: deadlines refuse before, where they can
CANDIDATES = ROWS_PER_REQUEST     # of one rank request, of all its recalls
RECALLS = 16
VECTORS_INDEXED = 5_000_000       # of one index, that a scorer holds in memory
FINALIZED_BYTES = 64 * 1024 * 1024  # of states and the features computed from them that a scorer remembers
KEPT_STATE_BYTES = 64 * 1024 * 1024  # of states that a scorer does not read again while the server tells it of changes
REQUEST_VECTOR_SIZE = 3 * 256 * 256 # numbers in one vector of a request, an image say; REQUEST_BYTES bounds their text
LOGGED_NUMBERS = VECTOR_SIZE      # of a row's vectors in the prediction log; of more their SHA-256 is logged
PREDICTION_LOG_QUEUE = 100_000    # scores that wait for the log
PREDICTION_LOG_BYTES = 256 * 1024 * 1024  # ... and about what they take in memory meanwhile
RELEASE_PROCESSES = 256           # that judge a candidate together; what more of them saw is their own to judge
MAX_AGE_US = 60 * 60_000_000      # of state that a model takes without reading it again
STALE_FOR_US = 24 * 60 * 60_000_000  # ... where the store does not answer
FEATURE_CACHE_BYTES = 64 * 1024 * 1024
CACHED_SCORES = 1_000_000         # of one version of a model
CACHED_SCORES_BYTES = 64 * 1024 * 1024  # of one version, with the inputs that they are of

# watching
WATCHED_RECORDS = 500             # polled, scored and appended at once, in one transaction: on Redis Streams one Lua call
AVERAGES = 1_000_000              # that one process keeps, of all rules and entities
FEATURES_TEXT_BYTES = 32 * 1024   # of the feature values in a score and in an alert; longer ones are left out, and that is said

# live accuracy
SCORES_FOLLOWED = 50_000          # of one model, that wait for their labels; of more a share is followed
