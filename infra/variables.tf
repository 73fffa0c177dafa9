# What has to be decided? What has no default differs from account to account.

variable "region" {
  description = "Where queue, table, bucket, topic and workers lie. Models may be called elsewhere, see endpoints."
  type        = string
}

variable "name" {
  description = "What everything here is called, or begins with."
  type        = string
  default     = "aquifer"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,30}[a-z0-9]$", var.name))
    error_message = "name is 3 to 32 lower-case letters, digits and hyphens: bucket names allow no more."
  }
}

variable "tags" {
  description = "Tags on everything, beside Application."
  type        = map(string)
  default     = {}
}

# ---------------------------------------------------------------------------------------------------------- models

variable "models" {
  description = <<-TEXT
    The models that workers may call, by the names that aquifer.toml gives them. id: the bare Bedrock model id.
    tokens_per_minute, output_burndown: as in aquifer.toml; without the first there is no alarm on utilisation.
  TEXT
  type = map(object({
    id                = string
    tokens_per_minute = optional(number)
    output_burndown   = optional(number, 1)
  }))

  validation {
    condition     = length(var.models) > 0
    error_message = "name at least one model: workers may call no other."
  }
  validation {
    condition     = alltrue([for model in values(var.models) : coalesce(model.tokens_per_minute, 1) > 0])
    error_message = "tokens_per_minute is above 0, or left out."
  }
}

variable "endpoints" {
  description = <<-TEXT
    The regions in which models are called, with the prefix of their inference profile there, as in aquifer.toml:
    { us-west-2 = "us" }; "" calls the bare model id. Alarms on a model's own metrics cover the region above.
  TEXT
  type        = map(string)

  validation {
    condition     = length(var.endpoints) > 0
    error_message = "name at least one region in which models are called."
  }
}

# ----------------------------------------------------------------------------------------------------------- store

variable "lease_seconds" {
  description = "[worker] lease, and the queue's visibility timeout: the two must agree."
  type        = number
  default     = 120

  validation {
    condition     = var.lease_seconds >= 30 && var.lease_seconds <= 43200
    error_message = "lease_seconds is between 30 and 43200, the longest that SQS hides a message."
  }
}

variable "bucket_name" {
  description = "The bucket to make; null names it by name, account and region."
  type        = string
  default     = null
}

variable "prefix" {
  description = "[aws] prefix: what every key of ours in the bucket begins with. Ends with /."
  type        = string
  default     = "aquifer/"

  validation {
    condition     = can(regex("^[^/].*/$", var.prefix))
    error_message = "prefix ends with / and does not begin with it."
  }
}

variable "results_expire_days" {
  description = "Results, rolls and manifests are deleted after so many days; null keeps them. Not below [state] keep."
  type        = number
  default     = null

  validation {
    condition     = coalesce(var.results_expire_days, 1) >= 1
    error_message = "results_expire_days is at least 1, or null."
  }
}

variable "agent_alias_arns" {
  description = <<-TEXT
    The agents that workers may call, each by the ARN of its alias:
    ["arn:aws:bedrock:us-west-2:123456789012:agent-alias/AGENTID/ALIASID"]; none by default.
  TEXT
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for arn in var.agent_alias_arns : can(regex(":agent-alias/[0-9A-Za-z]+/[0-9A-Za-z]+$", arn))])
    error_message = "agent_alias_arns are of the form arn:aws:bedrock:REGION:ACCOUNT:agent-alias/AGENTID/ALIASID."
  }
}

variable "knowledge_base_arns" {
  description = <<-TEXT
    The knowledge bases whose data sources workers may bring up to date:
    ["arn:aws:bedrock:us-west-2:123456789012:knowledge-base/KBID"]; none by default.
  TEXT
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for arn in var.knowledge_base_arns : can(regex(":knowledge-base/[0-9A-Za-z]{10}$", arn))])
    error_message = "knowledge_base_arns are of the form arn:aws:bedrock:REGION:ACCOUNT:knowledge-base/KBID."
  }
}

variable "upload_prefix" {
  description = "An object whose key begins with this becomes a document job, such as \"inbox/\"; null: none does."
  type        = string
  default     = null

  validation {
    # Else a result would be an upload, whose result would be an upload.
    condition = var.upload_prefix == null ? true : (
      !startswith(var.upload_prefix, var.prefix) && !startswith(var.prefix, var.upload_prefix)
    )
    error_message = "upload_prefix and prefix must not lie within each other, nor may upload_prefix be empty."
  }
}

variable "batch_prefix" {
  description = "Files of jobs below this may be enqueued by the workflow batch-inference, such as \"batches/\"; null: none may."
  type        = string
  default     = null

  validation {
    # Results are no input, and a file that is an upload, too, would be taken for a document.
    condition = var.batch_prefix == null ? true : alltrue([
      for other in compact([var.prefix, var.upload_prefix]) :
      !startswith(var.batch_prefix, other) && !startswith(other, var.batch_prefix)
    ])
    error_message = "batch_prefix must not lie within prefix or upload_prefix, nor they within it, nor may it be empty."
  }
}

variable "upload_events" {
  description = <<-TEXT
    Who tells the queue of uploads: "s3", the bucket itself, or "eventbridge", by a rule that others may stand beside: a
    bucket tells a prefix to one queue only, and EventBridge keeps trying for a day, then puts the event with the dead letters.
  TEXT
  type        = string
  default     = "s3"

  validation {
    condition     = contains(["s3", "eventbridge"], var.upload_events)
    error_message = "upload_events is \"s3\" or \"eventbridge\"."
  }
}

variable "protect" {
  description = "Refuse to delete the table, and the bucket while it holds anything. false is for trials."
  type        = bool
  default     = true
}

# ------------------------------------------------------------------------------------------------------------- who

variable "producer_principals" {
  description = "ARNs that may take the producer's role; empty: whoever the account's own policies let."
  type        = list(string)
  default     = []
}

variable "operator_principals" {
  description = "ARNs that may take the operator's role; empty: whoever the account's own policies let."
  type        = list(string)
  default     = []
}

# ------------------------------------------------------------------------------------------------------- workflows

variable "workflows" {
  description = "Make the state machines of statemachine/ too, with their roles, logs and alarms."
  type        = bool
  default     = false
}

variable "express_model" {
  description = <<-TEXT
    The model of the Express workflow, by its name among the models; it is called in the region above, beside the queue and
    its pace, so its calls should be few and short. null: there is no such workflow.
  TEXT
  type        = string
  default     = null

  validation {
    condition = var.express_model == null ? true : (
      contains(keys(var.models), var.express_model) && contains(keys(var.endpoints), var.region)
    )
    error_message = "express_model is one of the models, and region one of the endpoints."
  }
}

variable "workflow_rows_days" {
  description = "What a workflow records of a document or of an Express job is deleted after so many days. Not below [state] keep."
  type        = number
  default     = 30

  validation {
    condition     = var.workflow_rows_days >= 1
    error_message = "workflow_rows_days is at least 1."
  }
}

# --------------------------------------------------------------------------------------------------------- workers

variable "worker_image" {
  description = "The image of the workers, with its tag or digest; \"\" makes no workers."
  type        = string
  default     = ""
}

variable "subnets" {
  description = "Subnets of the workers. They need a way to AWS: a NAT, VPC endpoints, or a public address."
  type        = list(string)
  default     = []

  validation {
    condition     = var.worker_image == "" || length(var.subnets) > 0
    error_message = "workers need at least one subnet."
  }
}

variable "security_groups" {
  description = "Security groups of the workers: out to port 443, nothing in. Empty: the default group of the VPC."
  type        = list(string)
  default     = []
}

variable "assign_public_ip" {
  description = "Give workers a public address: in a public subnet they reach AWS in no other way."
  type        = bool
  default     = false
}

variable "cpu_architecture" {
  description = "What the image was built for: X86_64 or ARM64. The latter is a fifth cheaper."
  type        = string
  default     = "X86_64"

  validation {
    condition     = contains(["X86_64", "ARM64"], var.cpu_architecture)
    error_message = "cpu_architecture is X86_64 or ARM64."
  }
}

variable "worker_cpu" {
  description = "CPU units of a worker; 256 is a quarter of a vCPU."
  type        = number
  default     = 256

  validation {
    condition     = contains([256, 512, 1024, 2048, 4096], var.worker_cpu)
    error_message = "worker_cpu is 256, 512, 1024, 2048 or 4096."
  }
}

variable "worker_memory" {
  description = "MiB of a worker."
  type        = number
  default     = 512

  validation {
    condition     = var.worker_memory >= 2 * var.worker_cpu && var.worker_memory <= 8 * var.worker_cpu
    error_message = "worker_memory is between twice and eight times worker_cpu: Fargate sells nothing else."
  }
}

variable "worker_environment" {
  description = "More environment for the workers: AQUIFER_<SECTION>_<KEY>, AQUIFER_LOG. No secrets: they show."
  type        = map(string)
  default     = {}
}

variable "drain_seconds" {
  description = "[worker] drain: how long a worker that is told to stop may finish the calls it has paid for."
  type        = number
  default     = 90

  validation {
    # Fargate kills after 120 s at most, and a worker still has to hand back what it holds.
    condition     = var.drain_seconds >= 0 && var.drain_seconds <= 105
    error_message = "drain_seconds is between 0 and 105."
  }
}

variable "min_workers" {
  description = "Workers at least. One: a service without tasks emits no metric by which it could grow again."
  type        = number
  default     = 1

  validation {
    condition     = var.min_workers >= 1
    error_message = "min_workers is at least 1; to stop all, set worker_image = \"\"."
  }
}

variable "max_workers" {
  description = "Workers at most. More than the quota can feed do no good."
  type        = number
  default     = 4

  validation {
    condition     = var.max_workers >= var.min_workers
    error_message = "max_workers is not below min_workers."
  }
}

variable "backlog_per_worker" {
  description = "Messages, waiting or in hand, for which one worker is enough."
  type        = number
  default     = 20000

  validation {
    condition     = var.backlog_per_worker > 0
    error_message = "backlog_per_worker is above 0."
  }
}

variable "spot_percent" {
  description = "How many of a hundred workers run on Fargate Spot, which may be taken away with two minutes' notice."
  type        = number
  default     = 0

  validation {
    condition     = var.spot_percent >= 0 && var.spot_percent <= 100 && floor(var.spot_percent) == var.spot_percent
    error_message = "spot_percent is a whole number between 0 and 100."
  }
}

# -------------------------------------------------------------------------------------------------------- watching

variable "log_days" {
  description = "How long logs are kept, in days: one of the numbers that CloudWatch allows."
  type        = number
  default     = 30
}

variable "page_arns" {
  description = "Who is woken: SNS topics for alarms that say work is lost, stuck or failing."
  type        = list(string)
  default     = []
}

variable "note_arns" {
  description = "Who is told: SNS topics for alarms on throttles and utilisation, which a queue is there to endure."
  type        = list(string)
  default     = []
}

variable "oldest_job_seconds" {
  description = "The service level: no job waits longer than this, in seconds."
  type        = number
  default     = 3600
}

variable "budget_usd_a_day" {
  description = "An alarm goes off when the calls of a day (UTC) cost more than this at the configured prices, in US dollars; null: none."
  type        = number
  default     = null

  validation {
    condition     = var.budget_usd_a_day == null ? true : var.budget_usd_a_day > 0
    error_message = "A budget is more than nothing: leave it out to have no alarm."
  }
}
