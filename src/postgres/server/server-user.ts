import { access, constants, readFile, realpath, stat } from 'node:fs/promises'
import { dirname, resolve } from 'node:path'
import { HoldfastError } from '../../base/errors.ts'

/** The account that servers run as. PostgreSQL refuses to run as root. */
export interface ServerUser {
  readonly name: string
  readonly uid: number
  readonly gid: number
}

/**
 * The account for server processes when this process is root: `postgres`, else `nobody`. Undefined when it is
 * not root: then servers run as whoever runs us. An id without an entry in the passwd file does not do, because
 * `initdb` looks its own name up.
 */
export async function serverUser(): Promise<ServerUser | undefined> {
  if (process.getuid?.() !== 0) return undefined
  const accounts = parsePasswd(await readFile('/etc/passwd', 'utf8'))
  const user = accounts.get('postgres') ?? accounts.get('nobody')
  if (user === undefined || user.uid === 0) {
    throw new HoldfastError('server_failed', 'running as root, and there is no account `postgres` or `nobody`', {
      hint: 'Run as an ordinary user, or add an account named postgres.',
    })
  }
  return user
}

export function parsePasswd(text: string): Map<string, ServerUser> {
  const accounts = new Map<string, ServerUser>()
  for (const line of text.split('\n')) {
    const [name, , uid, gid] = line.split(':')
    if (name === undefined || uid === undefined || gid === undefined) continue
    if (!/^\d+$/.test(uid) || !/^\d+$/.test(gid) || accounts.has(name)) continue
    accounts.set(name, { name, uid: Number(uid), gid: Number(gid) })
  }
  return accounts
}

/** What `spawn` needs to run a process as the server's user. */
export function identity(user: ServerUser | undefined): { uid?: number; gid?: number } {
  return user === undefined ? {} : { uid: user.uid, gid: user.gid }
}

/**
 * Whether the user can reach `path`: every folder on the way, and `path` itself where it exists, must be
 * searchable. Root's home usually is not. What does not exist yet is not looked at.
 */
export async function canEnter(path: string, user: ServerUser | undefined): Promise<boolean> {
  for (const folder of await existingFolders(path)) {
    if (user === undefined) {
      if (!(await isSearchable(folder))) return false
      continue
    }
    const { uid, gid, mode } = await stat(folder)
    const bits = uid === user.uid ? mode >> 6 : gid === user.gid ? mode >> 3 : mode
    if ((bits & constants.S_IXOTH) === 0) return false
  }
  return true
}

async function existingFolders(path: string): Promise<string[]> {
  let deepest = resolve(path)
  for (;;) {
    try {
      deepest = await realpath(deepest)
      break
    } catch {
      // What is not there, or not visible to us, is judged by the closest ancestor that is.
      deepest = dirname(deepest)
    }
  }
  const folders: string[] = []
  if (!(await stat(deepest)).isDirectory()) deepest = dirname(deepest)
  for (let folder = deepest; ; folder = dirname(folder)) {
    folders.unshift(folder)
    if (folder === dirname(folder)) return folders
  }
}

async function isSearchable(folder: string): Promise<boolean> {
  try {
    await access(folder, constants.X_OK)
    return true
  } catch {
    return false
  }
}
