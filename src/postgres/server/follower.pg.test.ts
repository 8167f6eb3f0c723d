import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { ServerYard } from '../../../test/support/servers.ts'
import { present } from '../../base/assert.ts'
import { systemClock } from '../../base/clock.ts'
import { manifestName, parseManifest, verifyManifest } from './backup-manifest.ts'
import { intoArchive, intoDirectory, tarName, unpackStored } from './backup-sinks.ts'
import { receiveBaseBackup } from './base-backup.ts'
import { newestOf } from './binaries.ts'
import { parseLsn } from '../lsn.ts'
import { ReplicationConnection } from '../replication.ts'
import { forgetOrigin, upstreamFile, writeSettings } from './data-directory.ts'
import { buildFollower, follow, promote, waitSilent, waitStreaming } from './follower.ts'
import type { LocalServer } from './local-server.ts'

const oracle = '/usr/lib/postgresql/15/bin/pg_verifybackup'

let yard: ServerYard
let primary: LocalServer

beforeAll(async () => {
  yard = await ServerYard.open()
  primary = await yard.primary('primary', { wal_level: 'logical', max_wal_senders: 10 })
  const admin = await yard.connect(primary)
  await admin.query('create table item (id int primary key, filler text)')
  // More than one segment of a relation file would be slow; some megabytes pass the small-file limit.
  await admin.query(`insert into item select i, repeat('x', 1000) from generate_series(1, 3000) i`)
  admin.release()
})

afterAll(async () => {
  await yard[Symbol.asyncDispose]()
})

describe('a follower', () => {
  test('streams, counts as a synchronous follower, takes over by promotion and can be followed itself', async () => {
    const name = 'eu-west/payroll.2'
    const second = yard.server('second')
    const upstream = { primary: yard.target(primary), applicationName: name, slot: 'hf_eu_west_payroll_2' }
    await buildFollower({ upstream, dataDir: second.dataDir, user: yard.user })
    await second.start()
    const admin = await yard.connect(primary)
    await waitStreaming(admin, name, 20_000)
    await primary.configure({
      wal_level: 'logical',
      max_wal_senders: 10,
      synchronous_standby_names: `ANY 1 ("${name}")`,
    })
    await expect
      .poll(async () => (await admin.query(`select sync_state from pg_stat_replication`)).rows[0]?.['sync_state'])
      .toBe('quorum')

    await admin.query('set synchronous_commit = remote_apply')
    await admin.query(`insert into item values (10001, 'synchronous')`)
    const reader = await yard.connect(second)
    expect((await reader.query('select filler from item where id = 10001')).rows).toEqual([{ filler: 'synchronous' }])
    admin.release()

    await primary.kill()
    await promote(reader, { dataDir: second.dataDir, user: yard.user }, 30)
    await reader.query(`insert into item values (10002, 'after the promotion')`)
    expect(await readFile(join(second.dataDir, 'holdfast.upstream.conf'), 'utf8')).toBe('')
    expect((await reader.query('select pg_is_in_recovery() as follows')).rows).toEqual([{ follows: false }])

    // Who is at the very end of the old timeline is told of the next one, without a stream.
    const receiver = await ReplicationConnection.connect(yard.target(second), 'physical', systemClock)
    await receiver.createPhysicalSlot('receiver')
    const [, forkLsn = ''] = (await receiver.timelineHistory(2)).split(/\s+/)
    const stream = await receiver.startPhysical('receiver', parseLsn(forkLsn), 1)
    expect((await stream.receive(5_000)).ended).toMatchObject({ nextTimeline: 2, start: parseLsn(forkLsn) })
    receiver.close()

    const third = yard.server('third')
    const next = { primary: yard.target(second), applicationName: 'third', slot: 'third' }
    const backup = await buildFollower({ upstream: next, dataDir: third.dataDir, user: yard.user })
    expect(backup.timeline).toBe(2)
    await third.start()
    await waitStreaming(reader, 'third', 20_000)
    reader.release()
    await third.stop()
    await second.stop()
    await primary.configure({ wal_level: 'logical', max_wal_senders: 10 })
    await primary.start()
  })

  test('V2: is silent only when nothing can begin its receiver again, and has replayed all that it received, however slow', async () => {
    const quiet = yard.server('quiet')
    const upstream = { primary: yard.target(primary), applicationName: 'quiet', slot: 'quiet' }
    await buildFollower({ upstream, dataDir: quiet.dataDir, user: yard.user })
    await quiet.start()
    const admin = await yard.connect(primary)
    const reader = await yard.connect(quiet)
    const ask = async <T>(sql: string) => present((await reader.query<{ it: T }>(sql)).rows[0], 'one row').it
    await waitStreaming(admin, 'quiet', 20_000)
    await reader.query('select pg_wal_replay_pause()')
    await admin.query(`insert into item select i, repeat('y', 1000) from generate_series(20001, 22000) i`)
    const { rows } = await admin.query<{ it: string }>('select pg_current_wal_flush_lsn()::text as it')
    const written = parseLsn(present(rows[0], 'one row').it)
    await expect
      .poll(async () => parseLsn(await ask<string>('select pg_last_wal_receive_lsn()::text as it')))
      .toBeGreaterThanOrEqual(written)

    // No receiver is there, and who begins one knows nothing yet.
    const startup = await ask<number>(`select pid as it from pg_stat_activity where backend_type = 'startup'`)
    process.kill(startup, 'SIGSTOP')
    try {
      process.kill(await ask<number>('select pid as it from pg_stat_wal_receiver'), 'SIGTERM')
      await expect.poll(() => ask<string>('select count(*) as it from pg_stat_wal_receiver')).toBe('0')
      await writeSettings(quiet.dataDir, {}, yard.user, upstreamFile)
      quiet.reload()
      await expect(waitSilent(yard.target(quiet), { stallMs: 500, withinMs: 500 })).rejects.toMatchObject({
        code: 'server_failed',
      })
    } finally {
      process.kill(startup, 'SIGCONT')
    }
    const end = await waitSilent(yard.target(quiet), { stallMs: 20_000, withinMs: 20_000 })
    expect(end).toBeGreaterThanOrEqual(written)
    expect(await ask('select filler as it from item where id = 22000')).toBe('y'.repeat(1000))
    await admin.query('delete from item where id > 20000')
    expect(parseLsn(await ask<string>('select pg_last_wal_replay_lsn()::text as it'))).toBe(end)
    reader.release()
    await quiet.stop()
    await admin.query(`select pg_drop_replication_slot('quiet')`)
    admin.release()
  })

  test('whose build is broken off leaves no data directory, and the next build succeeds', async () => {
    const broken = yard.server('broken')
    const upstream = { primary: yard.target(primary), applicationName: 'broken', slot: 'broken' }
    const giveUp = new AbortController()
    const build = buildFollower({ upstream, dataDir: broken.dataDir, user: yard.user, signal: giveUp.signal })
    giveUp.abort(new Error('given up'))
    await expect(build).rejects.toThrow('given up')
    await expect(stat(broken.dataDir)).rejects.toThrow('ENOENT')
    await mkdir(`${broken.dataDir}.building`)
    await writeFile(join(`${broken.dataDir}.building`, 'of an earlier run'), '')
    await buildFollower({ upstream, dataDir: broken.dataDir, user: yard.user })
    await broken.start()
    await broken.stop()
  })

  test('has no data directory before all of it is there, and takes over no setting of its primary', async () => {
    const admin = await yard.connect(primary)
    await admin.query(`alter system set work_mem = '7MB'`)
    const third = yard.server('whole')
    const upstream = { primary: yard.target(primary), applicationName: 'whole', slot: 'whole' }
    let building = true
    const build = buildFollower({ upstream, dataDir: third.dataDir, user: yard.user }).finally(() => {
      building = false
    })
    const found: string[][] = []
    while (building) {
      const names = await readdir(third.dataDir).catch(() => undefined)
      if (names !== undefined) found.push(names)
      await systemClock.sleep(1)
    }
    await build
    for (const names of found) expect(names).toContain('standby.signal')
    await third.start()
    const reader = await yard.connect(third)
    expect((await reader.query('show work_mem')).rows).toEqual([{ work_mem: '4MB' }])
    reader.release()
    await third.stop()
    await admin.query('alter system reset work_mem')
    admin.release()
  })

  test('keeps the password of its primary in a file that only the server reads', async () => {
    const dataDir = join(yard.root, 'secret')
    await mkdir(dataDir)
    await follow(
      dataDir,
      { primary: { ...yard.target(primary), password: `it's \\ secret` }, applicationName: 'x', slot: 'x' },
      undefined,
    )
    const path = join(dataDir, 'holdfast.upstream.conf')
    expect((await stat(path)).mode & 0o777).toBe(0o600)
    expect(await readFile(path, 'utf8')).toContain(`password=''it\\\\''s \\\\\\\\ secret''`)
  })
})

describe('a base backup', () => {
  test('received into a directory verifies against its manifest; a changed, missing or added file does not', async () => {
    const dataDir = join(yard.root, 'verified')
    const backup = await receive(dataDir)
    const manifest = await verifyManifest(dataDir)
    expect(manifest.walRanges).toEqual([{ timeline: backup.timeline, start: backup.startLsn, end: backup.stopLsn }])
    expect(manifest.files.some((file) => file.size > 1 << 20)).toBe(true)

    const path = join(dataDir, 'PG_VERSION')
    const content = await readFile(path)
    await writeFile(
      path,
      content.map((byte) => byte ^ 1),
    )
    await expect(verifyManifest(dataDir)).rejects.toThrow('PG_VERSION has another checksum')
    await rm(path)
    await expect(verifyManifest(dataDir)).rejects.toThrow('PG_VERSION is missing')
    await writeFile(path, content)
    await writeFile(join(dataDir, 'base', 'stray'), 'x')
    await expect(verifyManifest(dataDir)).rejects.toThrow('base/stray is not listed')
    const bytes = await readFile(join(dataDir, manifestName))
    expect(() => parseManifest(bytes.subarray(0, -10))).toThrow('cut short')
    expect(() => parseManifest(Buffer.from(bytes.toString().replace('PG_VERSION', 'PG_VERSIOM')))).toThrow('checksum')
  })

  test('stored in an archive is restored elsewhere and recovers to the state of its stop position', async () => {
    const folder = join(yard.root, 'archive', 'b1')
    const backup = await receiveBaseBackup({
      target: yard.target(primary),
      sink: intoArchive(folder),
      label: 'stored',
      checkpoint: 'fast',
    })
    const restored = yard.server('restored')
    await unpackStored(folder, restored.dataDir, yard.user)
    await forgetOrigin(restored.dataDir, yard.user)
    // The log between start and stop is fetched from the primary, as an archive would give it.
    await follow(
      restored.dataDir,
      { primary: yard.target(primary), applicationName: 'restored', slot: 'restored' },
      yard.user,
    )
    const admin = await yard.connect(primary)
    await admin.query(`select pg_create_physical_replication_slot('restored', true)`)
    const system = await admin.query(`select system_identifier::text as id from pg_control_system()`)
    expect(backup.systemId).toBe(system.rows[0]?.['id'])
    admin.release()
    await restored.start()
    const reader = await yard.connect(restored)
    expect((await reader.query('select count(*)::int as n from item where id <= 3000')).rows).toEqual([{ n: 3000 }])
    reader.release()
    await restored.stop()
  })

  test.runIf(existsSync(oracle))('passes PostgreSQL’s own verifier', async () => {
    // Its version must be the server's: these tools refuse a newer one.
    const binaries = present(await newestOf([dirname(oracle)], yard.user), 'the server beside the verifier')
    const server = yard.server('oracle', {}, binaries)
    await yard.initialise(server, binaries)
    await server.start()
    const dataDir = join(yard.root, 'oracle.backup')
    const target = yard.target(server)
    await receiveBaseBackup({ target, sink: intoDirectory(dataDir, yard.user), label: 'oracle', checkpoint: 'fast' })
    const { stdout } = await promisify(execFile)(oracle, ['--no-parse-wal', dataDir])
    expect(stdout).toContain('backup successfully verified')
    const follower = yard.server('oracle.follower', {}, binaries)
    const upstream = { primary: target, applicationName: 'oracle', slot: 'oracle' }
    await buildFollower({ upstream, dataDir: follower.dataDir, user: yard.user })
    await follower.start()
    await follower.stop()
    await server.stop()
  })

  test('HZ-A5: a backup whose storing breaks off leaves no file with a final name', async () => {
    const folder = join(yard.root, 'archive', 'b2')
    const giveUp = new AbortController()
    const sink = intoArchive(folder)
    const receiving = receiveBaseBackup({
      target: yard.target(primary),
      sink: {
        ...sink,
        archive: (content) => {
          content.once('readable', () => giveUp.abort(new Error('given up')))
          return sink.archive(content)
        },
      },
      label: 'broken off',
      checkpoint: 'fast',
      signal: giveUp.signal,
    })
    await expect(receiving).rejects.toThrow('given up')
    await expect(stat(join(folder, tarName))).rejects.toThrow('ENOENT')
    await expect(stat(join(folder, manifestName))).rejects.toThrow('ENOENT')
  })

  test('waits at the server while its sink is behind', async () => {
    const admin = await yard.connect(primary)
    let release: () => void = () => undefined
    const held = new Promise<void>((resolve) => {
      release = resolve
    })
    const receiving = receiveBaseBackup({
      target: yard.target(primary),
      sink: {
        archive: async (content) => {
          await held
          content.resume()
        },
        manifest: async () => undefined,
      },
      label: 'held',
      checkpoint: 'fast',
    })
    const sent = async () => {
      const { rows } = await admin.query('select backup_streamed::int as bytes from pg_stat_progress_basebackup')
      return Number(rows[0]?.['bytes'] ?? 0)
    }
    // Until it stands still; what is on its way then is what the sockets and the pipe hold.
    let before = -1
    for (let now = await sent(); now !== before || now === 0; now = await sent()) {
      before = now
      await systemClock.sleep(200)
    }
    const { rows } = await admin.query(`select sum(pg_database_size(oid))::int as bytes from pg_database`)
    expect(before).toBeLessThan(Number(rows[0]?.['bytes']) / 2)
    release()
    expect((await receiving).manifest.length).toBeGreaterThan(1000)
    admin.release()
  })

  test('a server that sends nothing any more is given up; one whose sink is behind is not', async () => {
    const admin = await yard.connect(primary)
    const backend = `select pid from pg_stat_activity where backend_type = 'walsender' and query like 'BASE_BACKUP%'`
    let held: number | undefined
    const receiving = receiveBaseBackup({
      target: yard.target(primary),
      sink: {
        archive: async (content) => {
          held = present((await admin.query<{ pid: number }>(backend)).rows[0], 'who sends it').pid
          process.kill(held, 'SIGSTOP')
          content.resume()
        },
        manifest: async () => undefined,
      },
      label: 'silent',
      checkpoint: 'fast',
      silentMsMax: 2_000,
    })
    try {
      await expect(receiving).rejects.toThrow('the server sent nothing for 2000 ms')
    } finally {
      if (held !== undefined) process.kill(held, 'SIGCONT')
      admin.release()
    }
    const slow = await receiveBaseBackup({
      target: yard.target(primary),
      sink: {
        archive: async (content) => {
          await systemClock.sleep(4_000)
          content.resume()
        },
        manifest: async () => undefined,
      },
      label: 'slow',
      checkpoint: 'fast',
      silentMsMax: 2_000,
    })
    expect(slow.manifest.length).toBeGreaterThan(1000)
  })

  test('a sink that fails fails the backup with its own error', async () => {
    const failing = receiveBaseBackup({
      target: yard.target(primary),
      sink: {
        archive: async (content) => {
          for await (const _ of content) throw new Error('the sink is full')
        },
        manifest: async () => undefined,
      },
      label: 'refused',
      checkpoint: 'fast',
    })
    await expect(failing).rejects.toThrow('the sink is full')
  })

  test('is not unpacked over a directory that holds something', async () => {
    const dataDir = join(yard.root, 'occupied')
    await mkdir(dataDir)
    await writeFile(join(dataDir, 'precious'), 'x')
    await expect(receive(dataDir)).rejects.toThrow('not empty')
    expect(await readFile(join(dataDir, 'precious'), 'utf8')).toBe('x')
  })
})

function receive(dataDir: string) {
  return receiveBaseBackup({
    target: yard.target(primary),
    sink: intoDirectory(dataDir, yard.user),
    label: 'test',
    checkpoint: 'fast',
  })
}
