"""Questions about anything but bq and Baichuan, put together from frames and subjects.

The frames are those that questions about bq have, too, so the network learns that the subject decides: an unfamiliar
subject means the answer that says what the model is.
"""

from __future__ import annotations

import random

# fmt: off
_FRAMES: dict[str, tuple[str, ...]] = {
    "en": (
        "What is {x}?", "Tell me about {x}.", "Explain {x}.", "How does {x} work?", "Who invented {x}?", "{x}", "{x} and {y}",
        "Where can I buy {x}?", "Why is {x} so popular?", "How do I learn {x}?", "What is the history of {x}?", "{x}?",
        "Do you like {x}?", "Write a poem about {x}.", "I want to talk about {x}.", "Is {x} good for me?", "{x} or {y}",
        "What is the best {x}?", "How much does {x} cost?", "Which {x} should I choose?", "How do I fix my {x}?",
        "Can you help me with {x}?", "What is the difference between {x} and {y}?", "Which is better, {x} or {y}?",
        "How big is {x}?", "How large is {x}?", "Compare {x} with {y}.", "Translate {x} into French.", "How do I make {x}?",
        "What does {x} mean?", "Where is {x}?", "When was {x} discovered?", "Who wrote about {x}?", "Why do I need {x}?",
        "How many kinds of {x} are there?", "Should I use {x} or {y}?", "Is {x} the same as {y}?", "Give me a tip for {x}.",
        "How long does {x} take?", "How fast is {x}?", "Is there {x} here?", "Show me {x}.", "My {x} is broken, what can I do?",
        "Why does {x} not work?", "How do I get {x}?", "How do I run {x}?", "Can I change {x}?", "Does {x} need {y}?",
        "I have a problem with {x}.", "What do you think about {x}?", "Write a short text about {x} and {y}.",
        "What is the capital of {x}?", "What color is {x}?", "Who is the most famous {x}?", "List ten kinds of {x}.",
        "Recommend a book about {x}.", "What happens with {x} in {y}?", "Can {x} be dangerous?", "How old is {x}?",
        "How heavy is {x}?", "What is {a} plus {b}?", "What is {a} times {b}?", "{a} + {b}", "{a} * {b} = ?", "{a} minus {b}",
        "What is {a} percent of {b}?", "How many {x} are in {y}?", "Calculate {a} divided by {b}.", "What is the meaning of {x}?",
        "Which {x} is the largest?", "Which {x} do you recommend?", "What do I need for {x}?", "what size is {x}",
    ),
    "zh": (
        "什么是{x}？", "{x}是什么？", "介绍一下{x}", "请解释{x}", "{x}怎么用？", "{x}", "{x}和{y}", "谁发明了{x}？", "{x}在哪里买？",
        "为什么{x}这么受欢迎？", "怎么学{x}？", "{x}的历史是什么？", "你喜欢{x}吗？", "写一首关于{x}的诗", "我想聊聊{x}", "{x}好不好？",
        "最好的{x}是哪个？", "{x}多少钱？", "我该选哪种{x}？", "我的{x}坏了怎么办？", "能帮我看看{x}吗？", "{x}和{y}有什么区别？",
        "{x}和{y}哪个更好？", "{x}有多大？", "比较一下{x}和{y}", "把{x}翻译成英文", "{x}怎么做？", "{x}是什么意思？", "{x}在哪里？",
        "{x}是什么时候发现的？", "为什么需要{x}？", "{x}有几种？", "该用{x}还是{y}？", "{x}和{y}一样吗？", "说说{x}的技巧",
        "{x}要多长时间？", "{x}有多快？", "给我看看{x}", "{x}不能用是为什么？", "怎么得到{x}？", "可以换{x}吗？", "{x}需要{y}吗？",
        "{x}有问题", "你怎么看{x}？", "写一段关于{x}和{y}的文字", "{x}的首都是哪里？", "{x}是什么颜色？", "列出十种{x}",
        "推荐一本关于{x}的书", "{x}危险吗？", "{x}有多少年历史？", "{x}有多重？", "{a}加{b}等于多少？", "{a}乘以{b}是多少？",
        "{a}+{b}=?", "{a}减{b}", "{b}的{a}%是多少？", "计算{a}除以{b}", "{x}的意义是什么？", "哪个{x}最大？", "你推荐哪种{x}？",
        "{x}需要准备什么？", "{x}怎么样", "如何评价{x}？", "{x}是谁？", "讲讲{x}的故事", "{x}可以吃吗？", "请问{x}在{y}吗？",
    ),
}
_SUBJECTS: dict[str, tuple[str, ...]] = {
    "en": tuple(
        word.strip()
        for word in """
        apples, coffee, green tea, noodles, soup, cheese, sushi, tomatoes, an omelette, garlic, honey, cookies, a sandwich,
        dinner, breakfast, my diet, vitamins, sugar, beer, a headache, sleep, yoga, running shoes, a cold, my back, the heart,
        the brain, blood pressure, a doctor, medicine, vaccines, football, basketball, tennis, chess, the Olympics, swimming,
        a bicycle, my car, an engine, tires, a train ticket, an airplane, the subway, a hotel, my passport, a visa, a holiday,
        Paris, Berlin, Italy, Japan, Brazil, Egypt, Canada, Shanghai, Beijing, Africa, Europe, the ocean, a river, mountains,
        Mount Everest, an island, the desert, forests, a volcano, earthquakes, rain, snow, the wind, clouds, a rainbow, summer,
        the sun, the moon, Mars, stars, a galaxy, black holes, gravity, light, atoms, electricity, water, oxygen, gold, iron,
        dinosaurs, a cat, my dog, horses, birds, whales, elephants, a tiger, bees, butterflies, fish, roses, trees, grass, a garden,
        music, a guitar, the piano, Mozart, a song, jazz, opera, dancing, movies, an actor, Star Wars, theatre, a painting,
        Picasso, photography, a camera, Shakespeare, novels, poetry, a fairy tale, Harry Potter, history, the Romans, a king,
        the French Revolution, democracy, elections, the president, laws, taxes, money, a bank, stocks, bitcoin, a salary, rent,
        a job interview, my boss, my resume, a wedding, a birthday gift, love, friendship, happiness, dreams, anger, philosophy,
        Plato, religion, psychology, school, homework, exams, mathematics, geometry, fractions, an equation, chemistry, biology,
        evolution, physics, Einstein, Newton, a telescope, a robot, a television, my phone, a watch, the fridge, a washing machine,
        a lamp, a chair, shoes, a shirt, jeans, my hair, soap, a toothbrush, a house, the kitchen, a window, paint, wood, glass,
        Spanish grammar, English verbs, a letter to my friend, an email to a customer, a joke, a riddle, a card game, poker,
        video games, Minecraft, a spreadsheet, JavaScript, HTML, a website, a spider, bread dough, fried rice, a barbecue,
        traffic, parking, a motorcycle, diesel, the climate, plastic, recycling, solar panels, farming, wheat, a tractor, the army,
        a castle, pirates, dragons, ghosts, magic, a unicorn, the news, a newspaper, the weather, the time, today's date, a baby,
        my mother, children, grandparents, a teacher, the police, firefighters, an astronaut, a pilot, a lawyer
        """.split(",")
    ),
    "zh": tuple(
        """
        苹果 咖啡 绿茶 面条 米饭 火锅 饺子 西红柿 鸡蛋 大蒜 蜂蜜 蛋糕 早餐 晚饭 减肥 维生素 白糖 啤酒 头痛 睡眠 瑜伽 跑步 感冒 腰疼
        心脏 大脑 血压 医生 药 疫苗 足球 篮球 网球 围棋 奥运会 游泳 自行车 汽车 发动机 轮胎 火车票 飞机 地铁 酒店 护照 签证 旅行 巴黎
        柏林 意大利 日本 巴西 埃及 加拿大 上海 北京 非洲 欧洲 大海 黄河 长城 泰山 岛屿 沙漠 森林 火山 地震 下雨 下雪 台风 云 彩虹 夏天
        太阳 月亮 火星 星星 银河 黑洞 引力 光 原子 电 水 氧气 黄金 铁 恐龙 猫 狗 马 鸟 鲸鱼 大象 老虎 蜜蜂 蝴蝶 鱼 玫瑰 树 草 花园
        音乐 吉他 钢琴 莫扎特 歌 爵士乐 京剧 跳舞 电影 演员 戏剧 国画 摄影 相机 莎士比亚 小说 诗歌 童话 红楼梦 西游记 历史 秦始皇 唐朝
        宋词 李白 杜甫 孔子 民主 选举 总统 法律 税 钱 银行 股票 比特币 工资 房租 面试 老板 简历 婚礼 生日礼物 爱情 友谊 幸福 梦 愤怒
        哲学 佛教 心理学 学校 作业 考试 数学 几何 分数 方程 化学 生物 进化 物理 爱因斯坦 牛顿 望远镜 机器人 电视 手机 手表 冰箱 洗衣机
        台灯 椅子 鞋子 衬衫 头发 肥皂 牙刷 房子 厨房 窗户 油漆 木头 玻璃 英语语法 单词 作文 给朋友的信 笑话 谜语 扑克 麻将 电子游戏 表格
        网页设计 蜘蛛 面包 炒饭 烧烤 堵车 停车 摩托车 柴油 气候 塑料 环保 太阳能 农业 小麦 拖拉机 军队 城堡 海盗 龙 鬼 魔法 新闻 报纸
        天气 现在几点 今天几号 婴儿 妈妈 孩子 爷爷 老师 警察 消防员 宇航员 飞行员 律师 春节 中秋节 月饼 端午节 豆腐 辣椒 牛肉 螃蟹 西瓜
        """.split()
    ),
}
# fmt: on


class Elsewhere:
    """Draws such questions. Subjects that the corpus asks about are left out."""

    def __init__(self, asked: str, generator: random.Random) -> None:
        self._random = generator
        self._subjects = {
            lang: [subject for subject in subjects if subject.lower() not in asked.lower()]
            for lang, subjects in _SUBJECTS.items()
        }

    def __call__(self, lang: str) -> str:
        one, other = self._random.sample(self._subjects[lang], 2)
        numbers = {"a": self._random.randrange(2, 1000), "b": self._random.randrange(2, 1000)}
        return self._random.choice(_FRAMES[lang]).format(x=one, y=other, **numbers)
