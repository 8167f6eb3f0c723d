import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Approval, PlannedRun } from '../payledger.ts'
import { closeTraffic, onboard } from '../payledger.ts'
import { employeesOf, openingBalanceCents, planOf, tenants } from '../seed.ts'
import type { TransactOutcome } from 'holdfast'
import { formatHlc } from 'holdfast'
import type { Stage } from './stage.ts'
import type { Telling } from './story.ts'
import { countOf, homeGateway, managerOf, money, violationsOf } from './words.ts'

/** One approval of the day, as its caller saw it. */
export interface ApprovedRun extends PlannedRun {
  readonly approval: TransactOutcome<Approval>
}

export async function fleetIsUp({ west }: Stage, tell: Telling): Promise<void> {
  const status = await west.status()
  const nodes = status.shards.flatMap((shard) => shard.nodes)
  tell.check('every shard is open and its primary answers', status.ready)
  tell.check(
    'every node answers',
    nodes.every((node) => node.reachable),
  )
  const regions = new Set(nodes.map((node) => node.region))
  tell.say(
    `${nodes.length} PostgreSQL servers of ${status.shards.length} shards run in ${[...regions].join(', ')}, with one gateway in each region.`,
  )
  for (const shard of status.shards) {
    const places = shard.nodes.map((node) => `${node.role} in ${node.region}`)
    tell.say(`${shard.shard} has its ${places.join(', ')}; commits wait for a ${shard.durability}.`)
  }
}

export async function seed(stage: Stage, tell: Telling): Promise<void> {
  let people = 0
  for (const tenant of tenants) {
    const employees = employeesOf(tenant)
    const outcome = await onboard(homeGateway(stage, tenant), {
      tenant,
      employees,
      balanceCents: openingBalanceCents,
      actor: managerOf(tenant),
    })
    people += employees.length
    tell.check(`${tenant} was onboarded on both of its shards`, outcome.shards.includes('us-east/treasury'))
  }
  const violations = await violationsOf(stage.west)
  tell.check('every invariant holds', violations.total === 0)
  tell.say(
    `${tenants.length} tenants with ${people} employees; each has ${money(openingBalanceCents)} at the treasury in us-east. ${violations.names.length} invariants hold.`,
  )
}

export async function takeBackup({ west }: Stage, tell: Telling): Promise<void> {
  const reports = await west.backup({ onProgress: ({ step, detail }) => tell.progress(`${step} ${detail ?? ''}`) })
  const status = await west.status()
  tell.check('every shard has a base backup', reports.length === status.shards.length)
  for (const { shard, region, bytes, durationMs, startLsn } of reports) {
    tell.check(`the backup of ${shard} is not empty`, bytes > 0)
    tell.check(`the backup of ${shard} stays where its data may be`, region === shard.split('/')[0])
    tell.say(
      `${shard}: ${(bytes / 1e6).toFixed(1)} MB from ${startLsn} on into the archive of ${region}, in ${durationMs} ms.`,
    )
  }
}

/** The March close of all tenants at once, each from its own region. */
export async function closeOfMarch(stage: Stage, tell: Telling): Promise<readonly ApprovedRun[]> {
  const perTenant = await Promise.all(
    tenants.map(async (tenant) => {
      const approved: ApprovedRun[] = []
      const traffic = closeTraffic(homeGateway(stage, tenant), planOf('mar-2026', [tenant]), managerOf(tenant))
      for await (const run of traffic) {
        approved.push(run)
        tell.progress(`${run.run} of ${tenant}`)
      }
      return approved
    }),
  )
  const approved = perTenant.flat()
  const total = approved.reduce((sum, { approval }) => sum + BigInt(approval.value.totalCents), 0n)
  tell.check('every run was approved', approved.length === planOf('mar-2026').length)
  const stamps = perTenant.map((runs) => runs.map(({ approval }) => approval.commitTimestamp))
  tell.check(
    'commit timestamps of a tenant grow in the order of its approvals',
    stamps.every((row) => row.every((stamp, index) => index === 0 || stamp > (row[index - 1] ?? stamp))),
  )
  const last = approved.reduce((a, b) => (a.approval.commitTimestamp > b.approval.commitTimestamp ? a : b))
  tell.say(
    `${countOf(approved.length, 'run')} of March drafted and approved, ${money(total)} in all; the last one at ${formatHlc(last.approval.commitTimestamp)}.`,
  )
  return approved
}

/** What an operator finds in the journal of refused orchestration. */
export async function recordedRefusals({
  dataDir,
}: Stage): Promise<readonly { readonly reasons: readonly string[] }[]> {
  const text = await readFile(join(dataDir, 'journal', 'refusals.jsonl'), 'utf8')
  return text
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as { reasons: readonly string[] })
}
