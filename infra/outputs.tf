# What do producers, operators and aquifer.toml need to know of all this?

output "aquifer_toml" {
  description = "To be put into aquifer.toml: terraform output -raw aquifer_toml"
  value       = <<-TOML
    backend = "aws"

    [aws]
    queue_url = "${aws_sqs_queue.jobs.url}"
    dead_letter_url = "${aws_sqs_queue.dead.url}"
    table = "${aws_dynamodb_table.ledger.name}"
    bucket = "${aws_s3_bucket.store.id}"
    prefix = "${var.prefix}"
    topic_arn = "${aws_sns_topic.notices.arn}"

    [worker]
    lease = "${var.lease_seconds}s"
  TOML
}

output "roles" {
  description = "The roles to take, by what one wants to do."
  value = {
    producer = aws_iam_role.producer.arn
    worker   = aws_iam_role.worker.arn
    operator = aws_iam_role.operator.arn
  }
}

output "topic_arn" {
  description = "Where to subscribe for notices."
  value       = aws_sns_topic.notices.arn
}

output "repository_url" {
  description = "Where to push the image of the workers."
  value       = aws_ecr_repository.worker.repository_url
}

output "log_group" {
  description = "Where the workers' logs are."
  value       = aws_cloudwatch_log_group.worker.name
}

output "workflows" {
  description = "The state machines, by name: pipeline of an [[upload]], and what StartExecution starts."
  value       = local.machine_arns
}
