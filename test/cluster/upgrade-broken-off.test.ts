import { spawn } from 'node:child_process'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { leftBehind } from '../../examples/payledger/demo/leftovers.ts'
import { withConnection } from '../../src/postgres/postgres.ts'
import type { Release } from '../../src/postgres/release.ts'
import { nameRelease, packageRelease } from '../../src/postgres/release.ts'
import { installSchema } from '../../src/postgres/schema.ts'
import { eventually } from '../support/eventually.ts'
import { releaseWith } from '../support/releases.ts'
import {
  alone,
  draft,
  more,
  onTreasury,
  payroll,
  runs,
  tenant,
  treasury,
  UpgradingFleet,
} from '../support/upgrading-fleet.ts'

/** An upgrade that is refused, that fails, or whose supervisor is killed. */

let fleet: UpgradingFleet

beforeEach(async () => {
  fleet = await UpgradingFleet.make()
})

afterEach(async () => {
  await fleet[Symbol.asyncDispose]()
})

describe('U1, U3: an upgrade that does not get to its end', () => {
  const failing = onTreasury(`raise exception 'not here'`)

  test('a statement that one shard refuses is named with it, and no shard is changed', async () => {
    const before = await packageRelease()
    await fleet.start(before, alone)
    await fleet.attached(before, (gateway) => draft(gateway, 'one'))
    await fleet.stop()

    await expect(fleet.start(await releaseWith(failing), alone)).rejects.toMatchObject({
      code: 'upgrade_failed',
      message: expect.stringMatching(
        /^us-east\/treasury: 9999-more\.sql: not here \(SQLSTATE P0001\) in: do \$\$ begin/,
      ),
      detail: { shard: treasury },
    })
    expect((await leftBehind(fleet.root)).filter((what) => what !== fleet.root)).toEqual([])

    await fleet.start(before, alone)
    expect(fleet.shardOf(payroll).epoch).toBe(1)
    await fleet.attached(before, async (gateway) => expect(await runs(gateway)).toEqual(['one']))
  })

  test('a later release is named, and how to mend it; nothing is changed', async () => {
    const [before, after] = [await packageRelease(), await releaseWith(more, '99.0.0')]
    await fleet.start(after, alone)
    await fleet.stop()
    await expect(fleet.start(before, alone)).rejects.toMatchObject({
      code: 'release_newer',
      message: `eu-west/payroll was brought to release 99.0.0 with schema 9999-more; this is ${nameRelease(before)}`,
      hint: expect.stringContaining('start it with that release or a later one'),
    })
    await fleet.start(after, alone)
    expect(fleet.shardOf(payroll).epoch).toBe(1)
  })

  test('a branch in doubt is left to the release that prepared it', async () => {
    const [before, after] = [await packageRelease(), await releaseWith(more)]
    await fleet.start(before, alone)
    await withConnection(fleet.primaryOf(payroll), (admin) =>
      admin.script(`
        begin;
        insert into payroll_runs (tenant, id, status, total_cents) values ('${tenant}', 'x', 'draft', 1);
        prepare transaction 'hf_left'`),
    )
    await fleet.stop()
    await expect(fleet.start(after, alone)).rejects.toMatchObject({
      code: 'upgrade_blocked',
      message: 'eu-west/payroll cannot be upgraded: 1 branches are in doubt, first hf_left',
      hint: expect.stringContaining(nameRelease(before)),
    })
    // With what it has, it starts as ever.
    await fleet.start(before, alone)
    expect(await fleet.ask(treasury, `select to_regclass('holdfast.more') as more`)).toEqual([{ more: null }])
    await fleet.ask(payroll, `rollback prepared 'hf_left'`)
    await fleet.stop()
    await fleet.start(after, alone)
    expect(await fleet.ask(treasury, `select to_regclass('holdfast.more')::text as more`)).toEqual([
      { more: 'holdfast.more' },
    ])
  })

  test('a supervisor that is killed in the middle of it is followed by one that does it', async () => {
    const before = await packageRelease()
    await fleet.start(before, alone)
    await fleet.attached(before, (gateway) => draft(gateway, 'one'))
    await fleet.stop()
    await killUpgrading(await releaseWith(onTreasury('perform pg_sleep(3600)')))

    // The name is free: no shard got through it.
    const after = await releaseWith(more)
    await fleet.start(after, alone)
    for (const shard of [payroll, treasury]) {
      expect(await fleet.releasesOf(shard)).toEqual([nameRelease(after)])
      expect(fleet.shardOf(shard).epoch).toBe(2)
    }
    await fleet.attached(after, async (gateway) => expect(await runs(gateway)).toEqual(['one']))
  })

  test('one that is killed when one shard has it and one has not is followed by one that does the rest', async () => {
    const [before, after] = [await packageRelease(), await releaseWith(more)]
    await fleet.start(before, alone)
    await fleet.stop()
    await fleet.start(before, alone)
    await withConnection(fleet.primaryOf(payroll), (admin) => installSchema(admin, after))
    await fleet.stop()
    await expect(fleet.start(before, alone)).rejects.toMatchObject({ code: 'release_newer' })

    await fleet.start(after, alone)
    for (const shard of [payroll, treasury]) {
      expect(await fleet.releasesOf(shard)).toEqual([nameRelease(after)])
      expect(fleet.shardOf(shard).epoch).toBe(2)
    }
    await fleet.attached(after, (gateway) => draft(gateway, 'one'))
  })
})

/** Kills a supervisor with `kill -9` once a shard is in the middle of its upgrade. */
async function killUpgrading(release: Release): Promise<void> {
  const program = join(fleet.root, 'upgrade.mjs')
  const input = join(fleet.root, 'upgrade.json')
  const fleetModule = pathToFileURL(join(import.meta.dirname, '../../dist/fleet/fleet.js')).href
  await writeFile(input, JSON.stringify({ release, config: await fleet.configuration(alone) }))
  await writeFile(
    program,
    `import { readFileSync } from 'node:fs'
     import { quietRuntime, resolveConfig, startFleet } from ${JSON.stringify(fleetModule)}
     const { release, config: input } = JSON.parse(readFileSync(${JSON.stringify(input)}, 'utf8'))
     const { reference, config } = await resolveConfig({ config: input })
     const fleet = await startFleet(reference, config, false, { ...quietRuntime, release: async () => release })
     await fleet.stop()`,
  )
  const child = spawn(process.execPath, [program], { stdio: ['ignore', 'ignore', 'inherit'] })
  const ended = new Promise((resolve) => child.once('close', resolve))
  try {
    // A statement that is still there at the tenth look is the one that sleeps.
    let looks = 0
    await eventually(async () => {
      if (child.exitCode !== null) throw new Error('it was not kept by its migration: is what is built older?')
      looks = (await leftBehind(fleet.root)).some((what) => / DO\b/.test(what)) ? looks + 1 : 0
      return looks >= 10
    }, 60_000)
  } finally {
    child.kill('SIGKILL')
    await ended
  }
}
