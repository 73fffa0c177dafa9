# Where do results lie, and jobs too large for a message?

resource "aws_s3_bucket" "store" {
  bucket        = coalesce(var.bucket_name, "${var.name}-${local.account}-${var.region}")
  force_destroy = !var.protect
}

resource "aws_s3_bucket_ownership_controls" "store" {
  bucket = aws_s3_bucket.store.id

  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_public_access_block" "store" {
  bucket                  = aws_s3_bucket.store.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_server_side_encryption_configuration" "store" {
  bucket = aws_s3_bucket.store.id

  rule {
    apply_server_side_encryption_by_default {
      sse_algorithm = "AES256"
    }
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "store" {
  bucket = aws_s3_bucket.store.id

  # A worker that died in the middle of an upload leaves parts that nobody lists and somebody pays for.
  rule {
    id     = "abandoned-uploads"
    status = "Enabled"

    filter {
      prefix = ""
    }
    abort_incomplete_multipart_upload {
      days_after_initiation = 1
    }
  }

  # A job may wait for the queue's 14 days, and as many again in the dead-letter queue, from where it can be redriven.
  rule {
    id     = "large-jobs"
    status = "Enabled"

    filter {
      prefix = "${var.prefix}jobs/"
    }
    expiration {
      days = 29
    }
  }

  dynamic "rule" {
    for_each = var.results_expire_days == null ? [] : ["results", "rolls", "manifests", "express"]

    content {
      id     = rule.value
      status = "Enabled"

      filter {
        prefix = "${var.prefix}${rule.value}/"
      }
      expiration {
        days = var.results_expire_days
      }
    }
  }
}

data "aws_iam_policy_document" "store_bucket" {
  statement {
    sid       = "TlsOnly"
    effect    = "Deny"
    actions   = ["s3:*"]
    resources = [aws_s3_bucket.store.arn, "${aws_s3_bucket.store.arn}/*"]

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

resource "aws_s3_bucket_policy" "store" {
  bucket = aws_s3_bucket.store.id
  policy = data.aws_iam_policy_document.store_bucket.json

  # S3 refuses two changes to a bucket's access at once.
  depends_on = [aws_s3_bucket_public_access_block.store]
}
