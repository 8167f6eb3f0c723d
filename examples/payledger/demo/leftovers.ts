import { execFile } from 'node:child_process'
import { readdir, readFile, readlink, stat } from 'node:fs/promises'
import { promisify } from 'node:util'

/** What a run left behind: processes that work below its folder, and the folder itself. */
export async function leftBehind(root: string): Promise<readonly string[]> {
  const processes = process.platform === 'linux' ? await fromProc(root) : await fromPs(root)
  const folder = await stat(root).then(
    () => [root],
    () => [],
  )
  return [...processes, ...folder]
}

async function fromProc(root: string): Promise<string[]> {
  const found: string[] = []
  for (const pid of await readdir('/proc')) {
    if (!/^\d+$/.test(pid) || Number(pid) === process.pid) continue
    // Others' processes tell nothing, and some end while we look.
    const command = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')
    const folder = await readlink(`/proc/${pid}/cwd`).catch(() => '')
    if (command.includes(root) || folder.startsWith(root))
      found.push(`process ${pid}: ${command.replaceAll('\0', ' ')}`)
  }
  return found
}

async function fromPs(root: string): Promise<string[]> {
  const { stdout } = await promisify(execFile)('ps', ['-A', '-o', 'command='])
  return stdout.split('\n').filter((line) => line.includes(root))
}
