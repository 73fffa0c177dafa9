# Laid over infra/ by .ci/terraform.py when it applies: what the emulator does not know. These are planned, not applied.

resource "aws_appautoscaling_target" "worker" {
  count = 0
}

resource "aws_appautoscaling_policy" "backlog" {
  count = 0
}
