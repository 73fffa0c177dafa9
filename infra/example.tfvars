# Copy this to terraform.tfvars and change it. `.ci/run` applies it as it stands, against an emulator.

region = "us-west-2"

# As in aquifer.toml. The quotas are those of the Service Quotas console; without one there is no alarm on utilisation.
models = {
  haiku = {
    id                = "anthropic.claude-haiku-4-5-20251001-v1:0"
    tokens_per_minute = 5000000
    output_burndown   = 5
  }
  nova-lite = {
    id = "amazon.nova-lite-v1:0"
  }
}

# Where models are called, and the geography of their inference profiles there.
endpoints = {
  us-west-2 = "us"
  us-east-1 = "us"
}

# Documents that are dropped below this become jobs.
upload_prefix = "inbox/"

# Files of jobs that lie below this may be enqueued by a workflow.
batch_prefix = "batches/"

# Step Functions around the workers: documents and batches as workflows, and short calls of one model.
workflows     = true
express_model = "nova-lite"

# Results are kept for so long.
results_expire_days = 90

# Who spends more than this in a day is told.
budget_usd_a_day = 200

# Who is woken, and who is merely told: ARNs of SNS topics.
page_arns = []
note_arns = []

# The workers, once the image is there (see Containerfile):
# worker_image = "123456789012.dkr.ecr.us-west-2.amazonaws.com/aquifer:0.1.0"
# subnets      = ["subnet-0123456789abcdef0"]
