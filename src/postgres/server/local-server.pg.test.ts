import { execFile, spawn } from 'node:child_process'
import { mkdir, readFile, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { ServerYard } from '../../../test/support/servers.ts'
import { systemClock } from '../../base/clock.ts'
import { initialiseDataDir } from './data-directory.ts'
import { LocalServer } from './local-server.ts'
import { childrenOf, lives, signal, untilGone } from './processes.ts'
import { identity } from './server-user.ts'

const run = promisify(execFile)
const asRoot = process.getuid?.() === 0

let yard: ServerYard

beforeAll(async () => {
  yard = await ServerYard.open()
})

afterAll(async () => {
  await yard[Symbol.asyncDispose]()
})

describe('a server', () => {
  test('L2: takes connections once it has started, with the settings it was given, in a session of its own', async () => {
    const server = await yard.primary('plain', { work_mem: '5MB', cluster_name: `it's here` })
    const admin = await yard.connect(server)
    const { rows } = await admin.query(
      `select current_setting('work_mem') as memory, current_setting('cluster_name') as cluster,
         current_setting('listen_addresses') as addresses, current_setting('data_checksums') as checksums,
         current_setting('password_encryption') as passwords`,
    )
    expect(rows).toEqual([
      { memory: '5MB', cluster: `it's here`, addresses: '', checksums: 'on', passwords: 'scram-sha-256' },
    ])
    await server.configure({ work_mem: '6MB' })
    const memory = async () => (await admin.query('show work_mem')).rows[0]?.['work_mem']
    await expect.poll(memory, { timeout: 20_000 }).toBe('6MB')
    const { stdout } = await run('ps', ['-o', 'pgid=', '-p', String(server.pid)])
    expect(Number(stdout)).toBe(server.pid)
    expect((await stat(server.dataDir)).mode & 0o777).toBe(0o700)
    admin.release()
    expect(await server.stop()).toBe('fast')
    expect(server.isRunning()).toBe(false)
    await server.start()
    expect(await server.stop('immediate')).toBe('immediate')
  })

  test('that is killed loses no acknowledged commit and leaves no process', async () => {
    const server = await yard.primary('killed')
    const admin = await yard.connect(server)
    await admin.query('create table item (id int)')
    await admin.query('insert into item values (1)')
    const pids = [server.pid ?? 0, ...(await childrenOf(server.pid ?? 0))]
    expect(pids.length).toBeGreaterThan(4)
    // A stopped backend would not notice by itself that its postmaster is gone.
    signal(admin.serverProcessId, 'SIGSTOP')
    await server.kill()
    expect(await untilGone(pids, 0, systemClock)).toBe(true)
    await server.start()
    const again = await yard.connect(server)
    expect((await again.query('select id from item')).rows).toEqual([{ id: 1 }])
    again.release()
    await server.stop()
  })

  test('that is paused answers nothing until it is resumed', async () => {
    const server = await yard.primary('paused')
    const admin = await yard.connect(server)
    const pids = [server.pid ?? 0, ...(await childrenOf(server.pid ?? 0))]
    await server.pause()
    const states = async () => {
      const { stdout } = await run('ps', ['-o', 'stat=', '-p', pids.join(',')])
      return new Set(
        stdout
          .trim()
          .split('\n')
          .map((state) => state.charAt(0)),
      )
    }
    await expect.poll(states, { timeout: 20_000 }).toEqual(new Set(['T']))
    const answer = admin.query('select 1 as n')
    await server.resume()
    expect((await answer).rows).toEqual([{ n: 1 }])
    await server.pause()
    admin.release()
    expect(await server.stop()).toBe('fast')
  })

  test('L3: a stop that hangs escalates until no process is left', async () => {
    const server = await yard.primary('stuck')
    const admin = await yard.connect(server)
    const stuck = admin.serverProcessId
    signal(stuck, 'SIGSTOP')
    expect(await server.stop('fast', 100)).toBe('immediate')
    expect(await lives(stuck)).toBe(false)
    admin.destroy()
  })

  test('that cannot start says why, with the end of its log, and leaves nothing running', async () => {
    const server = yard.server('misconfigured', { work_mem: 'plenty' })
    await yard.initialise(server)
    await expect(server.start()).rejects.toMatchObject({
      code: 'server_failed',
      message: expect.stringContaining('invalid value for parameter "work_mem": "plenty"'),
    })
    expect(server.isRunning()).toBe(false)
    expect(await server.logTail()).toContain('plenty')
  })

  test('that is not ready in time is stopped again', async () => {
    const server = yard.server('late')
    await yard.initialise(server)
    await expect(server.start({ readyWithinMs: 0 })).rejects.toMatchObject({
      code: 'server_failed',
      message: expect.stringContaining('does not accept connections within 0 ms'),
    })
    expect(server.isRunning()).toBe(false)
  })

  test('refuses a socket path that the system would cut off', () => {
    const socketDir = `/tmp/${'long'.repeat(25)}`
    const options = {
      binaries: yard.binaries,
      user: yard.user,
      dataDir: '/nowhere',
      port: 5432,
      logFile: '/nowhere/log',
    }
    expect(() => new LocalServer({ ...options, socketDir, settings: {} })).toThrow('longer than 100 bytes')
  })
})

describe('L1: one server a data directory', () => {
  test('a server that an earlier run left running is stopped, in order, before the next starts', async () => {
    const left = await yard.primary('left')
    const admin = await yard.connect(left)
    await admin.query('create table item (id int)')
    const server = new LocalServer({
      binaries: yard.binaries,
      user: yard.user,
      dataDir: left.dataDir,
      socketDir: join(yard.root, 'left2.s'),
      port: 5432,
      logFile: join(yard.root, 'left2.log'),
      settings: {},
    })
    await left.pause()
    await server.start()
    await left.ended()
    expect(await left.logTail()).toContain('database system is shut down')
    expect(await server.logTail()).not.toContain('automatic recovery')
    await server.stop()
    admin.release()
  })

  test('backends that outlived their postmaster end before postmaster.pid goes, also when its id was given away', async () => {
    const server = await yard.primary('orphans')
    const admin = await yard.connect(server)
    // Stopped, it cannot notice that its postmaster is gone.
    signal(admin.serverProcessId, 'SIGSTOP')
    signal(server.pid ?? 0, 'SIGKILL')
    await server.ended()
    // PostgreSQL takes any process of its own user for the postmaster, and refuses to start.
    const stranger = spawn('sleep', ['600'], { ...identity(yard.user), stdio: 'ignore', cwd: '/' })
    const pidFile = join(server.dataDir, 'postmaster.pid')
    const [, ...rest] = (await readFile(pidFile, 'utf8')).split('\n')
    await writeFile(pidFile, [stranger.pid, ...rest].join('\n'))
    await server.start()
    expect(await lives(admin.serverProcessId)).toBe(false)
    expect(await lives(stranger.pid ?? 0)).toBe(true)
    admin.destroy()
    await server.stop()
    stranger.kill('SIGKILL')
  })
})

describe('a data directory', () => {
  test('is initialised with a password that appears in no command line and stays in no file', async () => {
    const server = yard.server('fresh')
    await yard.initialise(server)
    await expect(stat(`${server.dataDir}.password`)).rejects.toThrow('ENOENT')
    expect((await readFile(join(server.dataDir, 'pg_hba.conf'), 'utf8')).replaceAll(/#.*/g, '')).not.toContain('trust')
    await expect(yard.initialise(server)).rejects.toMatchObject({
      code: 'server_failed',
      message: expect.stringContaining('exists but is not empty'),
    })
  })

  test.runIf(asRoot)('in a folder that only root can enter is refused by name', async () => {
    const folder = join(yard.root, 'private')
    await mkdir(folder, { mode: 0o700 })
    const { binaries, user, password } = yard
    const dataDir = join(folder, 'data')
    await expect(initialiseDataDir({ binaries, user, dataDir, superuser: 'a', password })).rejects.toMatchObject({
      code: 'directory_not_writable',
      message: expect.stringContaining(folder),
    })
  })
})

test('the end of processes that are not ours is waited for, up to a deadline', async () => {
  const sleeper = spawn('sleep', ['600'], { stdio: 'ignore' })
  const pid = sleeper.pid ?? 0
  expect(await untilGone([pid], 30, systemClock)).toBe(false)
  sleeper.kill('SIGKILL')
  expect(await untilGone([pid], 20_000, systemClock)).toBe(true)
})
