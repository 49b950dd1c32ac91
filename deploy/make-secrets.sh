#!/usr/bin/env bash
# Makes the secrets that docker-compose.yml hands to its containers as files, each a random one, and tells Compose in .env
# where they are. What is there already stays; to change a secret, delete its file, run this again, and then
# `docker compose up --detach --force-recreate`.
#
#   deploy/make-secrets.sh [ADDRESS]    ADDRESS: of this machine, as the workers of other machines reach Redis and the store;
#                                       what they need to know is then in secrets/worker
set -euo pipefail
cd "$(dirname "$0")/.."

folder=secrets
address=${1:-}
# Of all machines, only its owner and Docker get into the folder. The files themselves are for everybody: each container
# has a user of its own, and Compose mounts them as they are (https://github.com/docker/compose/issues/9648).
mkdir -p "$folder"
chmod 700 "$folder"

# secret NAME: 192 random bits in hex, made once, kept in a file of its own.
secret() {
  [[ -s $folder/$1 ]] || od -An -N24 -tx1 /dev/urandom | tr -d ' \n' | put "$1"
  cat "$folder/$1"
}

# put NAME: standard input to a file, in one step.
put() {
  cat >"$folder/$1.new"
  chmod 444 "$folder/$1.new"
  mv -f "$folder/$1.new" "$folder/$1"
}

sha256() { if command -v sha256sum >/dev/null; then sha256sum; else shasum -a 256; fi | cut -d' ' -f1; }

redis_password=$(secret redis-password)
s3_secret=$(secret s3-secret-key)
secret lensmill-token >/dev/null
secret grafana-password >/dev/null

# The users are those of docs/redis.md and of Kubernetes: lensmill, and one that may ping, which is the healthcheck.
hash=$(printf %s "$redis_password" | sha256)
sed "s/>PASSWORD/#$hash/" deploy/kubernetes/components/redis/users.acl | put redis.acl

credentials() {
  cat <<END
[default]
aws_access_key_id = lensmill
aws_secret_access_key = $s3_secret
END
}
credentials | put s3-credentials

put s3-identities.json <<END
{
  "identities": [
    {
      "name": "lensmill",
      "credentials": [{ "accessKey": "lensmill", "secretKey": "$s3_secret" }],
      "actions": ["Read", "Write", "List", "Tagging"]
    }
  ]
}
END

echo "redis://lensmill:$redis_password@redis:6379" | put redis-url

touch .env
# tell NAME VALUE: as a line of .env.
tell() {
  sed "/^$1=/d" .env >.env.new
  echo "$1=$2" >>.env.new
  mv -f .env.new .env
}
tell LENSMILL_SECRETS "./$folder"

if [[ -n $address ]]; then
  mkdir -p "$folder/worker"
  echo "redis://lensmill:$redis_password@$address:6379" | put worker/redis-url
  credentials | put worker/s3-credentials
  # For `docker run --env-file`, and no secret.
  put worker/lensmill.env <<END
REDIS_URL_FILE=/run/secrets/redis-url
AWS_SHARED_CREDENTIALS_FILE=/run/secrets/s3-credentials
AWS_ENDPOINT_URL_S3=http://$address:8333
AWS_REGION=us-east-1
LENSMILL_OUTPUT=s3://lensmill/index
LENSMILL_HOST=0.0.0.0
LENSMILL_METRICS_PORT=9464
END
  tell BIND "$address"
fi

echo "The secrets are in $folder. The page asks for the one in $folder/lensmill-token, Grafana (user admin) for $folder/grafana-password." >&2
