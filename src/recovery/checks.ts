import type { ShardName } from '../directory/topology.ts'
import { Connection } from '../postgres/connection.ts'
import { ServerError } from '../postgres/failure.ts'
import { withConnection } from '../postgres/postgres.ts'
import type { ConnectionTarget } from '../postgres/statement.ts'
import { compareShards, compareTransactions } from './comparison.ts'
import type { Check, Checks } from './drill-report.ts'
import type { InvariantResult } from './invariant-check.ts'
import { checkInvariants } from './invariant-check.ts'
import type { PlaceQuestion } from './invariant-place.ts'
import { openQuiescentView } from './quiescent-view.ts'
import type { RecoveryContext } from './recovery.ts'
import type { HistoryPlan, ShardHistoryPlan } from './restore-plan.ts'
import type { EnvironmentServer, Servers } from './restore-shard.ts'
import { serverOf } from './restore-shard.ts'
import * as store from './restore-store.ts'
import { acceptsPassword } from './scram.ts'

/** The three classes of checks over a restored environment. A check that cannot be made is a check that failed. */

const connectWithinMs = 5_000
/** How many names a detail shows. */
const namesShownMax = 5

export async function checkEverything(context: RecoveryContext, plan: HistoryPlan, servers: Servers): Promise<Checks> {
  const storage: Check[] = []
  const data: Check[] = []
  const cutover: Check[] = []
  for (const [shard, one] of plan.shards) {
    const server = serverOf(servers, shard)
    const checkShard = async (admin: Connection) => {
      storage.push(...(await checkStorage(admin, shard)))
      data.push(...(await checkData(admin, one, plan)))
      cutover.push(...(await checkTakeOver(context, admin, shard, server)))
    }
    await withConnection(context.host.adminTarget(server.address), checkShard, context.signal)
  }
  const halves = await compareShards(targetsOf(context, servers), context.signal)
  data.push(
    check(
      'global transactions are whole',
      halves.count === 0,
      listed(halves.names, 'none lacks a part', '', halves.count),
    ),
  )
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
  const { missing, unexpected } = await compareTransactions(admin, one, plan.cut.wanted)
  const names = broken.map(({ constraint, rows }) => `${constraint}: ${rows} rows`)
  return [
    check(`${one.shard}: foreign keys hold`, broken.length === 0, listed(names, 'every reference has its row')),
    check(
      `${one.shard}: its transactions are those of the archive`,
      missing.count + unexpected.count === 0,
      `${listed(missing.names, 'none missing', 'missing: ', missing.count)}; ${listed(unexpected.names, 'none unexpected', 'unexpected: ', unexpected.count)}`,
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
  const { directory, regions, allowLists, environmentRegions: primaries, invariants } = context
  const question: PlaceQuestion = { directory, regions, primaries, allowLists }
  await using view = await openQuiescentView(targetsOf(context, servers))
  return await checkInvariants(invariants, question, view, await context.deliveries())
}

function targetsOf({ host }: RecoveryContext, servers: Servers): Map<ShardName, ConnectionTarget> {
  return new Map([...servers].map(([shard, { address }]) => [shard, host.adminTarget(address)]))
}

function toCheck({ name, severity, violations }: InvariantResult): Check {
  const isWarning = severity === 'warning' && violations > 0
  const detail = `${violations} violations${isWarning ? ', a warning' : ''}`
  return { ...check(`invariant ${name}`, violations === 0 || isWarning, detail), violations }
}

function check(name: string, ok: boolean, detail: string): Check {
  return { name, ok, detail }
}

function listed(names: readonly string[], none: string, prefix = '', count = names.length): string {
  if (count === 0) return none
  const more = count - namesShownMax
  return `${prefix}${names.slice(0, namesShownMax).join(', ')}${more > 0 ? ` and ${more} more` : ''}`
}
