/**
 * The named steps of the protocols. A shell calls `onStep` when it reaches one and waits for it, so that a test can
 * stop, kill or cut there. The names are those of the fault plan; a step is never skipped silently.
 */
export type StepName =
  | 'local begin'
  | 'local user write'
  | 'local stamp'
  | 'local commit sent'
  | 'local commit in WAL'
  | 'local acknowledged'
  | 'local reply'
  | 'global branch opened'
  | 'global prepare sent'
  | 'global prepare acknowledged'
  | 'global reading sent'
  | 'global reading confirmed'
  | 'global record inserted'
  | 'global home commit sent'
  | 'global home waiting for follower'
  | 'global reply'
  | 'global decision row'
  | 'global settle sent'
  | 'global settled'
  | 'collector announced'
  | 'collector watermark raised'
  | 'global record collected'
  | 'resolver scan'
  | 'resolver abort inserted'
  | 'resolver barrier'
  | 'resolver settle'
  | 'closer move'
  | 'closer own xid'
  | 'closer wait'
  | 'closer publish'
  | 'outbox sending journalled'
  | 'outbox event sent'
  | 'outbox delivery journalled'
  | 'restore fetch'
  | 'restore replay'
  | 'restore settle'
  | 'restore redo'
  | 'restore invariants'
  | 'cutover fence'
  | 'cutover switch'
  | 'cutover remove'
  | 'cutover open'
  | 'promotion stop'
  | 'promotion promote'
  | 'promotion history'
  | 'promotion follow'
  | 'promotion slots'
  | 'promotion build'
  | 'promotion place'
  | 'retirement names'
  | 'retirement barrier'
  | 'retirement tell'
  | 'opening names'
  | 'opening data'
  | 'opening barrier'
  | 'opening tell'

/** Where a protocol is: ids and names of shards, never data. */
export interface StepPlace {
  readonly transactionId?: string
  readonly shard?: string
  readonly eventId?: string
}

export type OnStep = (step: StepName, where: StepPlace) => Promise<void>

/** Production reaches every step and stops at none. */
export const noStep: OnStep = () => Promise.resolve()
