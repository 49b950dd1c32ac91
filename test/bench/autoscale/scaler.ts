/**
 * KEDA and the HorizontalPodAutoscaler below it, as their documentation says that they decide:
 * https://keda.sh/docs/latest/concepts/scaling-deployments/, https://keda.sh/docs/latest/reference/scaledobject-spec/,
 * https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/#algorithm-details
 *
 *   KEDA   every `pollingSeconds`: from zero to one when there is anything; to zero when there was nothing for `cooldownSeconds`
 *   HPA    every 15 s, between one and `maxReplicas`: replicas × metric ÷ target, rounded up; down only to the most that it
 *          asked for within `stabilizationSeconds`; up by four or to twice as many in 15 s, whichever is more
 */

export interface ScalerOptions {
  /** What one replica should have of the metric: KEDA's `AverageValue`. */
  target: number;
  maxReplicas: number;
  pollingSeconds: number;
  cooldownSeconds: number;
  stabilizationSeconds: number;
}

export interface Scaler {
  /** Called once a second, in order: how many replicas there shall be. */
  look(second: number, metric: number): number;
}

/** The controller's defaults. */
const syncSeconds = 15;
const tolerance = 0.1;
const growth = { by: 4, to: 2 };

/** `perReplica`: the metric's average over them. A tenth more or less than the target is as good as it. */
export function desiredReplicas(current: number, perReplica: number, target: number): number {
  const ratio = perReplica / target;
  return Math.abs(ratio - 1) <= tolerance ? current : Math.ceil(current * ratio);
}

export function openScaler(options: ScalerOptions): Scaler {
  const { target, maxReplicas, pollingSeconds, cooldownSeconds, stabilizationSeconds } = options;
  let replicas = 0;
  let lastActive = 0;
  /** What the HPA asked for, within its window. */
  let asked: { second: number; replicas: number }[] = [];

  function activate(second: number, metric: number): void {
    if (metric > 0) {
      lastActive = second;
      replicas ||= 1;
    } else if (second - lastActive >= cooldownSeconds) {
      replicas = 0;
      asked = [];
    }
  }

  function follow(second: number, metric: number): void {
    const desired = Math.min(maxReplicas, Math.max(1, desiredReplicas(replicas, metric / replicas, target)));
    asked = asked.filter((one) => second - one.second < stabilizationSeconds);
    asked.push({ second, replicas: desired });
    const most = Math.max(...asked.map((one) => one.replicas));
    if (desired > replicas)
      replicas = Math.min(desired, Math.max(replicas + growth.by, replicas * growth.to));
    else replicas = Math.min(replicas, most);
  }

  return {
    look(second, metric) {
      if (second % pollingSeconds === 0) activate(second, metric);
      if (second % syncSeconds === 0 && replicas > 0) follow(second, metric);
      return replicas;
    },
  };
}

/** As many as ever. */
export function fixedPool(replicas: number): Scaler {
  return { look: () => replicas };
}
