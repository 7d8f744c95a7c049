// Asks a meter with OpenMeter's SDK and prints what it answers.
import { OpenMeter } from '@openmeter/sdk'

const client = new OpenMeter({ baseUrl: process.env.METERD_URL, apiKey: process.env.METERD_KEY })
const to = new Date(Math.ceil(Date.now() / 60000) * 60000 + 3600000)
const from = new Date(to.getTime() - 3 * 3600000)
const all = await client.meters.query('tokens', { from, to, windowSize: 'DAY', windowTimeZone: 'UTC', groupBy: ['subject', 'model'] })
const one = await client.meters.query('tokens', { from, to, subject: ['om-single', 'om-batch'], filterGroupBy: { model: 'gö' } })
const meter = await client.meters.get('tokens')
const meters = await client.meters.list()
console.log(JSON.stringify({ all, one, meter, meters, dates: all.from instanceof Date && all.data[0].windowStart instanceof Date }))
