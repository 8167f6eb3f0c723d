import { statfs } from 'node:fs/promises'
import type { Command } from 'commander'
import { systemClock } from '../../base/clock.ts'
import { HoldfastError } from '../../base/errors.ts'
import type { FleetConfig } from '../../fleet/config.ts'
import type { ClockAcceptanceView, DriftView, InDoubtView, ShardStatus } from '../../fleet/operations-api.ts'
import { findSupervisor } from '../../fleet/registry.ts'
import { serverSettings } from '../../fleet/server-settings.ts'
import { waitingViews } from '../../fleet/waiting-events.ts'
import { parseHlc, wallMsOfHlc } from '../../hlc/hlc.ts'
import type { PostgresBinaries } from '../../postgres/server/binaries.ts'
import { defaultCacheRoot, locatePostgres } from '../../postgres/server/binaries.ts'
import { canEnter, serverUser } from '../../postgres/server/server-user.ts'
import { missingTwoPhaseFixes } from '../../postgres/server/two-phase-fixes.ts'
import { resolverLimitsDefault } from '../../transaction/resolver.ts'
import type { CommonOptions } from '../attach.ts'
import { attachFleet, quietRuntime } from '../../fleet/fleet.ts'
import { configFor, optionsOf, report } from '../attach.ts'
import { closedShards, describeClosed } from '../closed-shards.ts'
import { printLine } from '../output.ts'
import { fileFindings, invariantFindings } from './config-findings.ts'
import { connectionFindings, settingFindings } from './server-findings.ts'
import { waitingFindings } from './waiting-findings.ts'

/** One thing that was looked at. `warning` is legal and worth knowing; `problem` is neither. */
export interface Finding {
  readonly what: string
  readonly status: 'ok' | 'warning' | 'problem'
  readonly detail: string
}

const freeBytesMin = 1 << 30

/** `doctor`: what this machine and this configuration would run into. */
export function addDoctorCommand(program: Command): void {
  program
    .command('doctor')
    .description('look for what the fleet would run into on this machine')
    .action((_options: unknown, command: Command) => {
      const options = optionsOf(command)
      return report(
        options,
        () => examine(options),
        show,
        (findings) => findings.some(({ status }) => status === 'problem'),
      )
    })
}

async function examine(options: CommonOptions): Promise<Finding[]> {
  const config = await configFor(options)
  return [
    ...(await examineMachine(config)),
    ...examineConfig(config),
    ...(await invariantFindings(config)),
    ...(await examineFleet(config)),
  ]
}

async function examineMachine(config: FleetConfig): Promise<Finding[]> {
  const user = await serverUser()
  const findings: Finding[] = []
  try {
    findings.push(...postgresFindings(await locatePostgres(await defaultCacheRoot(user), user)))
  } catch (error) {
    if (!(error instanceof HoldfastError)) throw error
    findings.push({ what: 'postgres', status: 'problem', detail: error.message })
  }
  if (user !== undefined) {
    const enterable = await canEnter(config.dataDir, user)
    const detail = enterable
      ? `servers run as ${user.name}`
      : `${user.name} cannot enter ${config.dataDir}: servers keep their files below /var/lib/holdfast`
    findings.push({ what: 'server user', status: enterable ? 'ok' : 'warning', detail })
  }
  findings.push(await freeSpace(config.dataDir))
  return findings
}

/** What the servers would be. The npm package brings the version that it brings; that of the machine can be renewed. */
export function postgresFindings({ version, source, major }: PostgresBinaries): Finding[] {
  const findings: Finding[] = [{ what: 'postgres', status: 'ok', detail: `PostgreSQL ${version} from ${source}` }]
  const first = missingTwoPhaseFixes(version)
  if (first !== undefined) {
    const detail = `PostgreSQL ${version} lacks fixes of what becomes of branches in a crash: ${first} is the first with them`
    findings.push({ what: 'branches', status: source === 'npm' ? 'warning' : 'problem', detail })
  }
  if (major < 17) {
    const detail = `PostgreSQL ${major} does not keep logical slots over a failover: the redo stream has a hole after one`
    findings.push({ what: 'redo stream', status: 'warning', detail })
  }
  return findings
}

async function freeSpace(dataDir: string): Promise<Finding> {
  const at = await statfs(dataDir).catch(() => statfs('.'))
  const free = at.bavail * at.bsize
  const status = free < freeBytesMin ? 'problem' : 'ok'
  return { what: 'disk', status, detail: `${Math.floor(free / 1e6)} MB free` }
}

function examineConfig(config: FleetConfig): Finding[] {
  const findings: Finding[] = []
  for (const shard of config.shards.values()) {
    const away = shard.followers.filter((region) => region !== shard.region)
    if (shard.survive === 'region' && away.length === 1) {
      const detail = `${shard.name} waits for its only follower outside ${shard.region}: losing that one stops writes`
      findings.push({ what: 'durability', status: 'warning', detail })
    }
    if (shard.durability === 'local') {
      const detail = `${shard.name} waits for nobody: a lost server loses commits, and it takes no part in global transactions`
      findings.push({ what: 'durability', status: 'warning', detail })
    }
    if (shard.archive === null) {
      findings.push({
        what: 'archive',
        status: 'warning',
        detail: `${shard.name} has no archive: it cannot be restored`,
      })
    }
  }
  return findings
}

async function examineFleet(config: FleetConfig): Promise<Finding[]> {
  const registry = await findSupervisor(config.dataDir)
  if (registry === undefined) return [{ what: 'fleet', status: 'ok', detail: 'not running' }]
  const fleet = await attachFleet(config.dataDir, undefined, { ...quietRuntime, services: false })
  try {
    const { ready, shards } = await fleet.status()
    const closed = await closedShards(config.dataDir, shards)
    const servers = await serverSettings(fleet.parts)
    const unreachable = shards.flatMap(({ nodes }) =>
      nodes.filter(({ reachable }) => !reachable).map(({ node }) => node),
    )
    return [
      { what: 'fleet', status: ready ? 'ok' : 'problem', detail: ready ? 'running and ready' : 'running, not ready' },
      ...closed.map((one): Finding => ({ what: 'shard', status: 'problem', detail: describeClosed(one) })),
      ...unreachable.map((node) => ({ what: 'node', status: 'problem' as const, detail: `${node} does not answer` })),
      ...durabilityFindings(shards),
      ...(await fileFindings(registry.config)),
      ...settingFindings(servers),
      // `up` runs one a region; who runs others of his own has to add them.
      ...connectionFindings(servers, Math.max(config.regions.size, registry.gateways.length)),
      ...driftFindings(await fleet.drifts().catch(() => []), systemClock.wallMs()),
      ...waitingFindings(await waitingViews(fleet.parts), systemClock.wallMs()),
      ...acceptanceFindings(await fleet.acceptances().catch(() => []), systemClock.wallMs()),
      ...(shards.some(({ inDoubt }) => inDoubt > 0) ? inDoubtFindings(await fleet.resolve(true)) : []),
    ]
  } finally {
    await fleet.close()
  }
}

/** A shard whose commits nobody can acknowledge takes no writes; one that has a single one left is about to. */
export function durabilityFindings(shards: readonly Pick<ShardStatus, 'shard' | 'acknowledging'>[]): Finding[] {
  return shards.flatMap(({ shard, acknowledging }): Finding[] => {
    if (acknowledging === null || acknowledging > 1) return []
    if (acknowledging === 1) {
      const detail = `one follower of ${shard} can acknowledge its commits: losing that one stops writes`
      return [{ what: 'durability', status: 'warning', detail }]
    }
    return [
      { what: 'durability', status: 'problem', detail: `no follower can acknowledge commits of ${shard}: writes stop` },
    ]
  })
}

/** What happened weeks ago may be mended by now; its table still has it. */
const findingShownMs = 7 * 86_400_000

/** A screen that was meant to be local and is not: slow for those who use it, and down when the other region is. */
export function driftFindings(drifts: readonly DriftView[], nowMs: number): Finding[] {
  return drifts
    .filter(({ lastAt }) => nowMs - Date.parse(lastAt) <= findingShownMs)
    .map(({ route, from, to, shard, reads, lastAt }) => ({
      what: 'drift',
      status: 'warning',
      detail: `${route || 'a read without a route'} is declared local in ${from} and read ${shard} in ${to}: ${reads} times, last at ${lastAt}`,
    }))
}

/** As long as its time has not come, global commits with that shard are refused; and a week longer, for whoever looks. */
export function acceptanceFindings(acceptances: readonly ClockAcceptanceView[], nowMs: number): Finding[] {
  return acceptances
    .filter(({ acceptedAt, commitTimestamp }) => {
      return Math.max(Date.parse(acceptedAt), wallMsOfHlc(parseHlc(commitTimestamp))) >= nowMs - findingShownMs
    })
    .map(({ shard, transactionId, clockBefore, commitTimestamp, actor, reason, acceptedAt }) => ({
      what: 'clock',
      status: 'warning',
      detail: `${actor} let the clock of ${shard} pass ${transactionId}, from ${clockBefore} to ${commitTimestamp}, at ${acceptedAt}: ${reason}`,
    }))
}

/** A branch that is prepared holds its locks and the vacuum of its server for as long as it stays. */
export function inDoubtFindings(branches: readonly InDoubtView[]): Finding[] {
  return branches.map(({ gid, ageMs, verdict, why }) => {
    const isOld = ageMs >= resolverLimitsDefault.alarm.afterMs
    const status = isOld || verdict === 'needs a person' ? 'problem' : 'warning'
    return { what: 'in doubt', status, detail: `${gid}, ${Math.round(ageMs)} ms old: ${verdict}: ${why}` }
  })
}

function show(findings: readonly Finding[]): void {
  for (const { status, what, detail } of findings) printLine(`${status.padEnd(8)} ${what.padEnd(12)} ${detail}`)
}
