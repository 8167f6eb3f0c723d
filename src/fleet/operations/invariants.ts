import { systemClock } from '../../base/clock.ts'
import { HoldfastError } from '../../base/errors.ts'
import { silentMetrics } from '../../base/metrics.ts'
import type { Progress } from '../../base/progress.ts'
import { noStep } from '../../base/step.ts'
import { type OperatorRead, snapshotAsOperator } from '../../reading/snapshot.ts'
import { checkEnvironment } from '../../recovery/environment-servers.ts'
import { type Invariant, loadInvariants, platformDomain } from '../../recovery/invariant.ts'
import { checkInvariants, type InvariantResult, type InvariantView } from '../../recovery/invariant-check.ts'
import type { Row, StatementResult } from '../../postgres/statement.ts'
import type { QueryResult } from '../../transaction/transaction.ts'
import type { Call } from '../control.ts'
import { composeGateway } from '../gateway-parts.ts'
import { regionOf } from '../region.ts'
import type { Supervisor } from '../supervisor.ts'
import { allDeliveries, placeQuestion, recoveryContext } from './recovery-context.ts'

export interface InvariantsParams {
  readonly environment?: string | undefined
  readonly names?: readonly string[] | undefined
}

/** Runs the invariants on a restored environment, or on the fleet over one snapshot of all shards they need. */
export async function runInvariants(
  supervisor: Supervisor,
  call: Call,
  params: InvariantsParams,
  progress: Progress,
): Promise<readonly InvariantResult[]> {
  const invariants = await chosen(supervisor, params.names)
  if (params.environment !== undefined) {
    const context = await recoveryContext(supervisor, progress)
    return checkEnvironment({ ...context, invariants }, params.environment)
  }
  return overFleet(supervisor, call, invariants)
}

async function chosen({ config }: Supervisor, names: readonly string[] | undefined): Promise<Invariant[]> {
  const all = config.invariants === null ? [] : await loadInvariants(config.invariants)
  const unknown = names?.find((name) => !all.some((one) => one.name === name))
  if (unknown !== undefined) {
    throw new HoldfastError('unknown_invariant', `no invariant ${JSON.stringify(unknown)}`, {
      hint: `known are ${all.map(({ name }) => name).join(', ') || 'none'}`,
    })
  }
  return names === undefined ? all : all.filter(({ name }) => names.includes(name))
}

async function overFleet(supervisor: Supervisor, call: Call, invariants: readonly Invariant[]) {
  const { config, home, keys, servers } = supervisor
  const parts = await composeGateway({
    config,
    home,
    keys,
    region: regionOf(config, undefined),
    call,
    clock: systemClock,
    metrics: silentMetrics,
    onStep: noStep,
    onStuck: () => {},
    onServiceTrouble: () => {},
    onServiceFinding: () => {},
  })
  try {
    const domains = new Set(invariants.flatMap(({ needs }) => needs.map(({ domain }) => domain)))
    // What the platform knows of a tenant lies where any of its domains does.
    const declared = domains.delete(platformDomain) || domains.size === 0 ? [...config.domains.keys()] : [...domains]
    const question = await placeQuestion(supervisor)
    const targetOf = (node: { host: string; port: number }) => servers.adminTarget(node)
    const { value } = await snapshotAsOperator(parts.reading, { domains: declared, targetOf }, async (read) =>
      checkInvariants(invariants, question, new FleetView(read), await allDeliveries(supervisor)),
    )
    return value
  } finally {
    await parts.pools.close()
  }
}

/** The invariants' view over the snapshots of a running fleet. */
class FleetView implements InvariantView {
  readonly #read: OperatorRead

  constructor(read: OperatorRead) {
    this.#read = read
  }

  read: InvariantView['read'] = async (shard, { text, values }) =>
    toResult(await this.#read.query<Row>(shard, text, values))

  evaluate: InvariantView['evaluate'] = async (shard, { text, values }) => {
    // Sent one behind the other, answered in that order: the role is taken before the query runs, or all of it fails.
    const [, result] = await Promise.all([
      this.#read.query(shard, 'set local role holdfast_bound'),
      this.#read.query<Row>(shard, text, values),
      this.#read.query(shard, 'reset role'),
    ])
    return toResult(result)
  }
}

function toResult({ rows, rowCount, command }: QueryResult<Row>): StatementResult {
  return { ok: true, rows, rowCount, fields: [], tag: command, warnings: [] }
}
