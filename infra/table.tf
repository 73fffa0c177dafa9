# Where is it on record what became of each job? One table: jobs, batches, lanes, gates. Its keys are explained in
# src/aws/table.rs.

resource "aws_dynamodb_table" "ledger" {
  name = var.name
  # Backlogs come in cloudbursts; what is provisioned for them would idle in between.
  billing_mode                = "PAY_PER_REQUEST"
  hash_key                    = "pk"
  range_key                   = "sk"
  deletion_protection_enabled = var.protect

  attribute {
    name = "pk"
    type = "S"
  }

  attribute {
    name = "sk"
    type = "S"
  }

  # Rows of jobs that ended, call logs and gates go by themselves.
  ttl {
    attribute_name = "ttl"
    enabled        = true
  }

  point_in_time_recovery {
    enabled = true
  }
}
