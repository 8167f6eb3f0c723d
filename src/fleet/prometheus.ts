import { Counter, Gauge, Histogram, Registry } from 'prom-client'
import type { MetricLabels, MetricName, Metrics } from '../base/metrics.ts'

/** The metrics of one process in Prometheus form. Names ending in `_total` count; others are what their unit says. */
export class PrometheusMetrics implements Metrics {
  readonly registry = new Registry()
  readonly #counters = new Map<string, Counter>()
  readonly #gauges = new Map<string, Gauge>()
  readonly #histograms = new Map<string, Histogram>()

  count(name: MetricName, labels: MetricLabels = {}): void {
    let counter = this.#counters.get(name)
    if (counter === undefined) {
      counter = new Counter({ ...this.#options(name, labels), registers: [this.registry] })
      this.#counters.set(name, counter)
    }
    counter.inc(labels)
  }

  observe(name: MetricName, value: number, labels: MetricLabels = {}): void {
    let histogram = this.#histograms.get(name)
    if (histogram === undefined) {
      histogram = new Histogram({ ...this.#options(name, labels), buckets: bucketsMs, registers: [this.registry] })
      this.#histograms.set(name, histogram)
    }
    histogram.observe(labels, value)
  }

  gauge(name: MetricName, value: number, labels: MetricLabels = {}): void {
    let gauge = this.#gauges.get(name)
    if (gauge === undefined) {
      gauge = new Gauge({ ...this.#options(name, labels), registers: [this.registry] })
      this.#gauges.set(name, gauge)
    }
    gauge.set(labels, value)
  }

  forget(name: MetricName, labels: MetricLabels = {}): void {
    this.#gauges.get(name)?.remove(labels)
  }

  #options(name: MetricName, labels: MetricLabels) {
    return { name, help: name.replaceAll('_', ' '), labelNames: Object.keys(labels) }
  }
}

const bucketsMs = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000]
