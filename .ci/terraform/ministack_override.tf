# Laid over infra/ by .ci/terraform.py: the same resources, on an emulator on this machine. Terraform merges this block
# into the one of infra/main.tf; where the emulator listens, and credentials that it does not look at, come from the
# environment.

provider "aws" {
  skip_credentials_validation = true
  skip_metadata_api_check     = true
  s3_use_path_style           = true
  # The provider's own 25 retries would turn an error of the emulator into a wait of half an hour.
  max_retries = 3
}
