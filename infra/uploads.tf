# How does a file that somebody drops into the bucket become a job?

resource "aws_s3_bucket_notification" "uploads" {
  count  = var.upload_prefix == null ? 0 : 1
  bucket = aws_s3_bucket.store.id

  queue {
    id            = "uploads"
    queue_arn     = aws_sqs_queue.jobs.arn
    events        = ["s3:ObjectCreated:*"]
    filter_prefix = var.upload_prefix
  }

  # S3 tries the queue when it is told of it.
  depends_on = [aws_sqs_queue_policy.jobs]
}
