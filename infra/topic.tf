# Who says that a job has ended? The notices of jobs and batches; alarms go elsewhere, since CloudWatch cannot write to a
# topic under the key that SNS manages.

resource "aws_sns_topic" "notices" {
  name              = "${var.name}-notices"
  kms_master_key_id = "alias/aws/sns"
}

data "aws_iam_policy_document" "notices_topic" {
  statement {
    sid       = "TlsOnly"
    effect    = "Deny"
    actions   = ["sns:Publish"]
    resources = [aws_sns_topic.notices.arn]

    principals {
      type        = "*"
      identifiers = ["*"]
    }
    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }
}

resource "aws_sns_topic_policy" "notices" {
  arn    = aws_sns_topic.notices.arn
  policy = data.aws_iam_policy_document.notices_topic.json
}
