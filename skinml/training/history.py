"""One row an epoch: what training reports and everything after it reads."""

# epoch (from 1, through both steps), step ("frozen" or "finetune"), loss, accuracy and auc_macro
# of training (train_…) and validation (val_…), learning_rate of the last update, seconds and
# images_per_second of the training alone, and time: milliseconds since 1970 at the epoch's end.
Row = dict[str, float | str]
