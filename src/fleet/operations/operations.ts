import { z } from 'zod'
import { HoldfastError } from '../../base/errors.ts'
import type { Progress } from '../../base/progress.ts'
import type { NodeId, RegionName, ShardName } from '../../directory/topology.ts'
import type { Call } from '../control.ts'
import { administer } from '../administer.ts'
import { restartNode } from '../node-restart.ts'
import { regionOf } from '../region.ts'
import { nodeOf } from '../shard-servers.ts'
import type { Supervisor } from '../supervisor.ts'
import type { NodeDocument, TopologyDocument } from '../topology-store.ts'
import { acceptanceForm } from '../clock-acceptances.ts'
import { writeAcceptance } from './accept-clock.ts'
import { backUp } from './backup.ts'
import { archiveStatus, verifyArchives } from './archive-status.ts'
import { abandon, cutOver } from './cutover.ts'
import { runDrill } from './drill.ts'
import { failOver } from './failover.ts'
import { runInvariants } from './invariants.ts'
import { dropRestore, restoreFleet } from './restore.ts'
import { listKeys, revokeTokenKey, rotateKeys } from './rotate-keys.ts'
import { listReports } from '../../recovery/drill-store.ts'
import { listEnvironments } from '../../recovery/environment-servers.ts'

/**
 * What a supervisor does for others, by name. Each operation takes JSON and gives JSON; parameters are parsed here, once.
 * Operations that change servers or the topology of a shard run one at a time, and so do those on restored environments.
 */
type Operation = (supervisor: Supervisor, params: unknown, progress: Progress) => Promise<unknown>

/** Shorter than what a client waits for, so that a quiet fleet does not look like a dead one. */
const topologyPollMs = 10_000

const region = z.string().transform((name) => name as RegionName)
const shard = z.string().transform((name) => name as ShardName)
const node = z.string().transform((name) => name as NodeId)
const nothing = z.object({}).nullish()

function operation<T>(
  form: z.ZodType<T>,
  run: (supervisor: Supervisor, params: T, progress: Progress) => unknown,
): Operation {
  return async (supervisor, params, progress) => {
    const parsed = form.safeParse(params)
    if (!parsed.success) {
      throw new HoldfastError('argument_invalid', z.prettifyError(parsed.error), { hint: 'correct the parameters' })
    }
    return run(supervisor, parsed.data, progress)
  }
}

/** Waits its turn behind every other operation of this kind. */
function exclusive<T>(
  form: z.ZodType<T>,
  run: (supervisor: Supervisor, params: T, progress: Progress) => Promise<unknown>,
) {
  return operation(form, (supervisor, params: T, progress) =>
    supervisor.exclusively(() => run(supervisor, params, progress)),
  )
}

/** The same for what gives an environment to the fleet, or takes it back. */
function exclusiveWithEnvironments<T>(
  form: z.ZodType<T>,
  run: (supervisor: Supervisor, params: T, progress: Progress) => Promise<unknown>,
) {
  return operation(form, (supervisor, params: T, progress) =>
    supervisor.onEnvironments(() => supervisor.exclusively(() => run(supervisor, params, progress))),
  )
}

const operations: Readonly<Record<string, Operation>> = {
  topology: operation(z.object({ after: z.number().nullable() }), (supervisor, { after }) =>
    topologyAfter(supervisor, after),
  ),
  stop: operation(nothing, (supervisor) => supervisor.requestStop()),
  failover: operation(
    z.object({ shard, to: region.optional(), whatIf: z.boolean().optional() }),
    (supervisor, { shard: name, to, whatIf }, progress) =>
      failOver(
        supervisor,
        {
          shard: name,
          ...(to === undefined ? {} : { to: regionOf(supervisor.config, to) }),
          ...(whatIf === undefined ? {} : { whatIf }),
        },
        progress,
      ),
  ),
  backup: operation(z.object({ shards: z.array(shard).optional() }), (supervisor, { shards }, progress) =>
    backUp(supervisor, shards, progress),
  ),
  restore: operation(
    z.object({
      before: z.string().optional(),
      at: z.string().optional(),
      without: z.array(z.string()).optional(),
      into: z.string().optional(),
      dryRun: z.boolean().optional(),
    }),
    (supervisor, params, progress) => {
      const run = () => restoreFleet(supervisor, params, progress)
      // Who only asks what would be left out waits for nobody.
      return params.dryRun === true ? run() : supervisor.onEnvironments(run)
    },
  ),
  'restore.drop': operation(z.object({ environment: z.string() }), (supervisor, params) =>
    supervisor.onEnvironments(() => dropRestore(supervisor, params)),
  ),
  cutover: exclusiveWithEnvironments(
    z.object({ environment: z.string(), acceptLoss: z.boolean().optional() }),
    cutOver,
  ),
  'cutover.abandon': exclusiveWithEnvironments(z.object({ environment: z.string() }), abandon),
  invariants: operation(
    z.object({ environment: z.string().optional(), names: z.array(z.string()).optional() }),
    (supervisor, params, progress) => {
      const run = () => runInvariants(supervisor, callTo(supervisor), params, progress)
      // It starts the servers of an environment, which a cutover may be about to take in.
      return params.environment === undefined ? run() : supervisor.onEnvironments(run)
    },
  ),
  environments: operation(nothing, async (supervisor) =>
    listEnvironments({ environmentsDir: supervisor.home.environmentsDir }),
  ),
  'drill.run': operation(z.object({ at: z.string().optional() }), runDrill),
  drills: operation(nothing, (supervisor) => listReports(supervisor.home.drillsDir)),
  'archive.status': operation(nothing, (supervisor) => archiveStatus(supervisor)),
  'archive.verify': operation(nothing, (supervisor) => verifyArchives(supervisor)),
  // Each of its steps waits its turn; the time between them is nobody's.
  'keys.rotate': operation(nothing, (supervisor, _nothing, progress) => rotateKeys(supervisor, progress)),
  'keys.revoke': operation(z.object({ key: z.number().int() }), (supervisor, { key }, progress) =>
    revokeTokenKey(supervisor, key, progress),
  ),
  'keys.list': operation(nothing, (supervisor) => listKeys(supervisor)),
  'clock.accept': exclusive(acceptanceForm, writeAcceptance),
  'links.counts': operation(nothing, (supervisor) => supervisor.links.counts()),
  'links.reset': operation(nothing, (supervisor) => supervisor.links.resetCounts()),
  'links.cut': operation(
    z.object({ from: region, to: region, direction: z.enum(['both', 'to', 'from']) }),
    (supervisor, { from, to, direction }) => supervisor.links.cut(from, to, direction),
  ),
  'links.heal': operation(z.object({ from: region, to: region }), (supervisor, { from, to }) =>
    supervisor.links.heal(from, to),
  ),
  'node.hold': operation(z.object({ node }), (supervisor, { node: id }) =>
    onNode(supervisor, id, 'select pg_wal_replay_pause()'),
  ),
  'node.release': operation(z.object({ node }), (supervisor, { node: id }) =>
    onNode(supervisor, id, 'select pg_wal_replay_resume()'),
  ),
  'node.kill': operation(z.object({ node }), (supervisor, { node: id }) => supervisor.servers.kill(id)),
  // A primary that came back in the middle of its own replacement would be a second one.
  'node.restart': operation(z.object({ node }), (supervisor, { node: id }) => restartNode(supervisor, id)),
}

/** The operations of a supervisor as others call them. */
export function callTo(supervisor: Supervisor): Call {
  return async (method, params, progress) => {
    const run = Object.hasOwn(operations, method) ? operations[method] : undefined
    if (run === undefined) {
      throw new HoldfastError('argument_invalid', `the supervisor has no operation ${JSON.stringify(method)}`, {
        hint: 'the supervisor and this command may be of different versions',
      })
    }
    return supervisor.run(() => run(supervisor, params, progress))
  }
}

async function topologyAfter(supervisor: Supervisor, after: number | null): Promise<TopologyDocument> {
  const { topology } = supervisor
  if (after !== null && topology.document.version <= after) {
    const giveUp = new AbortController()
    // A wait that outlived the fleet would keep its process.
    const until = AbortSignal.any([giveUp.signal, supervisor.closing])
    const late = supervisor.clock.sleep(topologyPollMs, until).catch(() => undefined)
    await Promise.race([topology.changed(), late])
    giveUp.abort()
  }
  return topology.document
}

async function onNode(supervisor: Supervisor, id: NodeId, sql: string): Promise<void> {
  await administer(supervisor.shardServers.adminTarget(findNode(supervisor, id)), (admin) => admin.query(sql))
}

/** A node of the topology by its id. Throws `unknown_node`. */
export function findNode(supervisor: Supervisor, id: NodeId): NodeDocument {
  const shards = Object.values(supervisor.topology.document.shards)
  const found = shards.find(({ nodes }) => nodes.some((one) => one.id === id))
  if (found !== undefined) return nodeOf(found, id)
  throw new HoldfastError('unknown_node', `no node ${JSON.stringify(id)}`, {
    hint: `known nodes are ${shards.flatMap(({ nodes }) => nodes.map((one) => one.id)).join(', ')}`,
  })
}
