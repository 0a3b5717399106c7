"""What timm's ``train.py`` and Hugging Face's ``TrainingArguments`` call the flags of train.py.

An unknown flag, or key of a file, is looked up here; the table in docs/training.md is made of it.
"""

OTHER_NAMES: dict[str, tuple[str, str]] = {
    "data": ("data-dir", "train_file"),
    "model": ("model", "model_name_or_path"),
    "image_size": ("img-size", ""),
    "initial_checkpoint": ("initial-checkpoint", ""),
    "epochs": ("epochs", "num_train_epochs"),
    "batch_size": ("batch-size", "per_device_train_batch_size"),
    "eval_batch_size": ("validation-batch-size", "per_device_eval_batch_size"),
    "grad_accum_steps": ("grad-accum-steps", "gradient_accumulation_steps"),
    "opt": ("opt", "optim"),
    "lr": ("lr", "learning_rate"),
    "momentum": ("momentum", ""),
    "weight_decay": ("weight-decay", "weight_decay"),
    "layer_decay": ("layer-decay", ""),
    "sched": ("sched", "lr_scheduler_type"),
    "warmup": ("warmup-epochs", "warmup_ratio"),
    "step_epochs": ("decay-epochs", ""),
    "step_gamma": ("decay-rate", ""),
    "clip_grad": ("clip-grad", "max_grad_norm"),
    "model_ema_decay": ("model-ema-decay", ""),
    "label_smoothing": ("smoothing", "label_smoothing_factor"),
    "eval_metric": ("eval-metric", "metric_for_best_model"),
    "patience": ("", "early_stopping_patience"),
    "seed": ("seed", "seed"),
    "mixed_precision": ("amp", "bf16"),
    "channels_last": ("channels-last", ""),
    "compile": ("torchcompile", "torch_compile"),
    "compile_mode": ("torchcompile-mode", "torch_compile_mode"),
    "grad_checkpointing": ("grad-checkpointing", "gradient_checkpointing"),
    "sync_bn": ("sync-bn", ""),
    "device": ("device", "use_cpu"),
    "workers": ("workers", "dataloader_num_workers"),
    "output": ("output", "output_dir"),
    "name": ("experiment", "run_name"),
    "resume": ("resume", "resume_from_checkpoint"),
    "checkpoint_steps": ("recovery-interval", "save_steps"),
    "checkpoints_kept": ("checkpoint-hist", "save_total_limit"),
    "log_steps": ("log-interval", "logging_steps"),
    "report_to": ("log-wandb", "report_to"),
}
"""By the field of TrainConfig: timm's flag and Hugging Face's field, "" for none."""

_EARLIER = {"heatmaps": "human_maps", "optimizer": "opt", "schedule": "sched"}
_EARLIER |= {"ema_decay": "model_ema_decay"}
OURS = _EARLIER | {
    other.replace("-", "_"): ours
    for ours, others in OTHER_NAMES.items()
    for other in filter(None, others)
}
"""The field by each of its other names, those of earlier versions among them."""
