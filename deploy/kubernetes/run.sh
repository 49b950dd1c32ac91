#!/usr/bin/env bash
# Runs a lensmill command in the cluster, as a Job with the image, settings and secrets of what is deployed there:
#
#   deploy/kubernetes/run.sh enqueue s3://photos/2024 --shard-size 4096
#   deploy/kubernetes/run.sh resume RUN --enqueue
#
# kubectl's own context says in which cluster, NAMESPACE (lensmill) in which namespace.
set -euo pipefail

if [ $# -eq 0 ]; then
  echo "usage: $0 COMMAND [ARGUMENT…]   # a command of lensmill: enqueue, resume, status, verify, build-index …" >&2
  exit 2
fi
namespace=${NAMESPACE:-lensmill}
job=lensmill-$1-$(date -u +%Y%m%d-%H%M%S)
case $1 in
  # They read a whole output.
  build-index | verify | duplicates | certify) template=lensmill-build-index ;;
  *) template=lensmill-enqueue ;;
esac

# As JSON, whatever the arguments hold but line ends.
args=
for arg in "$@"; do
  arg=${arg//\\/\\\\}
  args+=",\"${arg//\"/\\\"}\""
done

kubectl create job "$job" --namespace "$namespace" --from "cronjob/$template" --dry-run=client --output json |
  kubectl patch --local --filename - --output json --type json --patch \
    "[{\"op\":\"replace\",\"path\":\"/spec/template/spec/containers/0/args\",\"value\":[${args#,}]}]" |
  kubectl create --filename -
echo "kubectl logs --namespace $namespace --follow job/$job"
