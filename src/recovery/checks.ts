import { nameOf } from '../archive/redo-transaction.ts'
import type { ShardName, TransactionId } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import { Connection } from '../postgres/connection.ts'
import { ServerError } from '../postgres/failure.ts'
import { withConnection } from '../postgres/postgres.ts'
import type { Check, Checks } from './drill-report.ts'
import type { InvariantResult } from './invariant-check.ts'
import { checkInvariants } from './invariant-check.ts'
import type { PlaceQuestion } from './invariant-place.ts'
import { positionOf } from './position.ts'
import { openQuiescentView } from './quiescent-view.ts'
import type { RecoveryContext } from './recovery.ts'
import type { HistoryPlan, ShardHistoryPlan } from './restore-plan.ts'
import type { EnvironmentServer, Servers } from './restore-shard.ts'
import { serverOf } from './restore-shard.ts'
import type { RestoredTransaction } from './restore-store.ts'
import * as store from './restore-store.ts'
import { acceptsPassword } from './scram.ts'
import type { GlobalTransactions } from './wholeness.ts'
import { findHalves } from './wholeness.ts'

/** The three classes of checks over a restored environment. A check that cannot be made is a check that failed. */

const connectWithinMs = 5_000
/** How many names a detail shows. */
const namesShownMax = 5

export async function checkEverything(context: RecoveryContext, plan: HistoryPlan, servers: Servers): Promise<Checks> {
  const storage: Check[] = []
  const data: Check[] = []
  const cutover: Check[] = []
  const globals = new Map<ShardName, GlobalTransactions>()
  for (const [shard, one] of plan.shards) {
    context.signal?.throwIfAborted()
    const server = serverOf(servers, shard)
    await withConnection(context.host.adminTarget(server.address), async (admin) => {
      storage.push(...(await checkStorage(admin, shard)))
      data.push(...(await checkData(admin, one, plan)))
      globals.set(shard, await store.readGlobals(admin))
      cutover.push(...(await checkTakeOver(context, admin, shard, server)))
    })
  }
  const halves = findHalves(globals)
  data.push(check('global transactions are whole', halves.length === 0, listed(halves, 'none lacks a part')))
  data.push(...(await checkRules(context, servers)).map(toCheck))
  return { storage, data, cutover }
}

async function checkStorage(admin: Connection, shard: ShardName): Promise<Check[]> {
  const inDoubt = await store.readPreparedGids(admin)
  const impermanent = await store.readImpermanentRelations(admin)
  const { inRecovery } = await store.readReplayState(admin)
  return [
    check(`${shard}: recovery has ended`, !inRecovery, 'backup and log verified, the stop reached'),
    check(`${shard}: nothing is in doubt`, inDoubt.length === 0, listed(inDoubt, 'no branch is prepared')),
    check(`${shard}: what must be permanent is`, impermanent.length === 0, listed(impermanent, 'all relations are')),
  ]
}

async function checkData(admin: Connection, one: ShardHistoryPlan, plan: HistoryPlan): Promise<Check[]> {
  const broken = await store.findBrokenReferences(admin)
  const { missing, unexpected } = compareTransactions(one, plan, await store.readTransactions(admin))
  const names = broken.map(({ constraint, rows }) => `${constraint}: ${rows} rows`)
  return [
    check(`${one.shard}: foreign keys hold`, broken.length === 0, listed(names, 'every reference has its row')),
    check(
      `${one.shard}: its transactions are those of the archive`,
      missing.length + unexpected.length === 0,
      `${listed(missing, 'none missing', 'missing: ')}; ${listed(unexpected, 'none unexpected', 'unexpected: ')}`,
    ),
  ]
}

async function checkTakeOver(
  context: RecoveryContext,
  admin: Connection,
  shard: ShardName,
  server: EnvironmentServer,
): Promise<Check[]> {
  const { state, archiving } = await store.readShardState(admin)
  const orphans = await store.countOrphanEvents(admin)
  const roles = await store.readRoles(admin, Object.keys(context.rolePasswords))
  const wrong = Object.entries(context.rolePasswords).flatMap(([role, password]) => {
    const verifier = roles.find(({ name }) => name === role)?.verifier
    return verifier != null && acceptsPassword(verifier, password) ? [] : [role]
  })
  return [
    check(`${shard}: credentials work`, wrong.length === 0, listed(wrong, `${roles.length} roles`, 'refused: ')),
    check(`${shard}: writers are fenced`, state === 'fenced', `the shard is ${state}`),
    check(`${shard}: nobody else comes in`, await areRefused(context, server), 'logins of the application are refused'),
    check(`${shard}: archives nothing`, archiving === 'off', `archive_mode is ${archiving}`),
    check(`${shard}: no effect without its cause`, orphans === 0, `${orphans} outbox events without a transaction`),
  ]
}

async function areRefused({ host, rolePasswords }: RecoveryContext, server: EnvironmentServer): Promise<boolean> {
  for (const [user, password] of Object.entries(rolePasswords)) {
    try {
      const target = { ...host.adminTarget(server.address), user, password }
      const connection = await Connection.connect(target, connectWithinMs)
      connection.release()
      return false
    } catch (error) {
      if (!(error instanceof ServerError)) throw error
    }
  }
  return true
}

/** Runs the fleet's invariants on an environment. */
export async function checkRules(context: RecoveryContext, servers: Servers): Promise<InvariantResult[]> {
  const { directory, regions, allowLists, environmentRegions: primaries, invariants, host } = context
  const question: PlaceQuestion = { directory, regions, primaries, allowLists }
  const targets = new Map([...servers].map(([shard, { address }]) => [shard, host.adminTarget(address)]))
  await using view = await openQuiescentView(targets)
  return await checkInvariants(invariants, question, view, await context.deliveries())
}

function toCheck({ name, severity, violations }: InvariantResult): Check {
  const isWarning = severity === 'warning' && violations > 0
  const detail = `${violations} violations${isWarning ? ', a warning' : ''}`
  return { ...check(`invariant ${name}`, violations === 0 || isWarning, detail), violations }
}

/** R2, as ids: what the restored shard shows against what the archive says it must. */
export function compareTransactions(
  { cut, stop, transactions, redo }: Pick<ShardHistoryPlan, 'cut' | 'stop' | 'transactions' | 'redo'>,
  { bound }: Pick<HistoryPlan, 'bound'>,
  restored: readonly RestoredTransaction[],
): { missing: string[]; unexpected: string[] } {
  const there = new Set<string>(restored.map(({ transactionId }) => transactionId))
  const wanted = cut.wanted.flatMap(({ transaction }) => stampedName(transaction) ?? [])
  const known = new Set<string>(transactions.flatMap((transaction) => stampedName(transaction) ?? []))
  const allowed = new Set(wanted)
  const newestBefore = redo.clockAtFrom ?? oldestIn(transactions)
  const unexpected = restored.filter(({ transactionId, commitTimestamp }) => {
    if (allowed.has(transactionId)) return false
    if (known.has(transactionId)) return true
    // The stream may begin after the shard, and a log may go further than the stream. What lies in the log before its
    // beginning may have a higher stamp than what lies behind: a branch is settled long after it was decided.
    const isOlder = newestBefore === null || (commitTimestamp !== null && commitTimestamp <= newestBefore)
    return !isOlder && !(bound.kind === 'end' && stop.kind === 'after')
  })
  return {
    missing: wanted.filter((id) => !there.has(id)),
    unexpected: unexpected.map(({ transactionId }) => transactionId),
  }
}

/** The stamp of the first transaction of a stream that does not say what came before it; null where there is none. */
function oldestIn(transactions: ShardHistoryPlan['transactions']): Hlc | null {
  const stamped = transactions.find((transaction) => stampedName(transaction) !== null)
  return stamped === undefined ? null : positionOf(stamped).timestamp
}

function stampedName(transaction: ShardHistoryPlan['transactions'][number]): TransactionId | null {
  const { kind } = transaction.identity
  return kind === 'home' || kind === 'branch' ? (nameOf(transaction) as TransactionId) : null
}

function check(name: string, ok: boolean, detail: string): Check {
  return { name, ok, detail }
}

function listed(names: readonly string[], none: string, prefix = ''): string {
  if (names.length === 0) return none
  const more = names.length - namesShownMax
  return `${prefix}${names.slice(0, namesShownMax).join(', ')}${more > 0 ? ` and ${more} more` : ''}`
}
