# What does a fleet of Aquifer's workers need in an account? One file a concern:
#
#   queue.tf      the queue, its dead-letter queue          worker.tf     the workers, on ECS Fargate
#   table.tf      the ledger                                scaling.tf    how many of them
#   bucket.tf     results, rolls, manifests, large jobs     logs.tf       what they say, and what is counted of it
#   uploads.tf    uploads that become jobs (optional)       alarms.tf     what somebody must know
#   topic.tf      the notices                               dashboard.tf  what an operator looks at
#   roles.tf      who may do what                           image.tf      where the image lies
#   workflows.tf  Step Functions around the workers (optional)
#   variables.tf  what to decide, with bounds               outputs.tf    what goes into aquifer.toml
#   metrics.json  every metric watched here, and who emits it: `cargo test --test infra` compares
#
# From zero: `cp example.tfvars terraform.tfvars`, change it, `terraform init`, `terraform apply`. Without `worker_image`
# everything but the workers is made. The README says what it costs.
#
# State is local until a backend is configured; nothing in it is secret.

terraform {
  required_version = ">= 1.9"

  required_providers {
    aws = {
      source = "hashicorp/aws"
      # 5.100 is what `.ci/run` applies.
      version = "~> 5.80"
    }
  }
}

provider "aws" {
  region = var.region

  default_tags {
    tags = merge({ Application = var.name }, var.tags)
  }
}

data "aws_caller_identity" "current" {}
data "aws_partition" "current" {}

locals {
  account   = data.aws_caller_identity.current.account_id
  partition = data.aws_partition.current.partition
  # Where workers run at all.
  runs_workers = var.worker_image != ""
}
