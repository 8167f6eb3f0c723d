/** What Holdfast counts and measures. The composition root decides where it goes; below it nobody knows. */
export interface Metrics {
  /** One more of something that happened. */
  count(name: MetricName, labels?: MetricLabels): void
  /** One measurement of a distribution. */
  observe(name: MetricName, value: number, labels?: MetricLabels): void
  /** The present value of something that goes up and down. */
  gauge(name: MetricName, value: number, labels?: MetricLabels): void
  /** The present value is no longer seen here. What was last seen would be told for ever, beside whoever sees it by now. */
  forget(name: MetricName, labels?: MetricLabels): void
}

/** Names of shards, regions, levels: never of tenants' data. Few values each. */
export type MetricLabels = Readonly<Record<string, string>>

export type MetricName =
  | 'session_read_wait_ms'
  | 'session_read_primary_fallback_total'
  | 'session_read_failed_total'
  | 'session_read_repeated_total'
  | 'session_lost_total'
  | 'cross_region_fanout_total'
  | 'cross_region_drift_total'
  | 'global_txn_participants'
  | 'global_txn_prepare_ms'
  | 'transaction_retried_total'
  | 'transaction_refused_total'
  | 'outcome_asked_total'
  | 'in_doubt_oldest_age_ms'
  | 'in_doubt_alarms_total'
  | 'resolver_queue_depth'
  | 'resolver_silent_homes'
  | 'resolver_settled_total'
  | 'collection_backlog'
  | 'records_collected_total'
  | 'keys_collected_total'
  | 'decisions_collected_total'
  | 'reads_pushed_total'
  | 'clock_offset_ms'
  | 'clock_ahead_ms'
  | 'clock_adopted_ms'
  | 'clock_refused_total'
  | 'closed_timestamp_lag_ms'
  | 'clock_closing_ms'
  | 'clock_closing_blocked_ms'
  | 'clock_keeper_interrupted_total'
  | 'outbox_pending'
  | 'outbox_deliveries_total'
  | 'outbox_interrupted_total'

export const silentMetrics: Metrics = { count: () => {}, observe: () => {}, gauge: () => {}, forget: () => {} }
